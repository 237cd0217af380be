"""Images/s of evaluation: compared with model.predict, at several scales per pixel, and over VOC's mixture of sizes.

python bench/speed/evaluation.py [IMAGES]        number drawn for the mixture; default 40

Two tables; the variants of each take turns. The first uses batches of two 375x500 images. The second uses a whole split
on one replica: every image at its own size, one by one or in a batch with others of the same size
(--eval_batch_size=4), and, as in earlier versions, every image padded to the largest sides, in batches of four. An
uncounted warm-up pass over the split comes first, so that every size has been seen. In so small a split, nearly every
image of an unusual size is the only one of its size; in VOC's val, with 1,449 images, more of them share a batch.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from common import HEIGHT, WIDTH, ratio, report, take_turns, write_shards
from PIL import Image
from step import CROSS_ENTROPY, NUM_CLASSES

from deeplab.data.input import transforms
from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.input.settings import EvaluationSettings
from deeplab.data.input.stored import ONE_REPLICA, PARALLEL_CALLS, PREFETCHED_BATCHES
from deeplab.data.shards import records
from deeplab.data.shards.split import Split
from deeplab.data.source import shapes, voc
from deeplab.distribute.devices import make_strategy
from deeplab.distribute.settings import DeviceSettings
from deeplab.evaluator import Evaluator, batches_to_score
from deeplab.labels import VOID_LABEL
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.inference import Predictor
from deeplab.model.settings import Inference, ModelConfig
from deeplab.progress import Progress
from deeplab.training.evaluate_step import make_evaluate_step

BATCH = 2
SCALES = (0.75, 1.0, 1.25)
ROUNDS = 2
IMAGES = 40
SHARED_BATCH = 4
USUAL_SIZES = {(500, 375): 0.45, (500, 333): 0.15, (375, 500): 0.10}
"""Shares of VOC's images by (width, height). The others have about a hundred sizes with sides up to 500."""
OTHER_SIZES = 100


class PaddedBatches(EvaluationBatches):
    """Evaluation as in earlier versions: all images padded to the split's largest sides, `max_images` per batch.

    For one replica. The last batch is filled up with images of only void, which are also evaluated.
    """

    def num_steps(self, context: tf.distribute.InputContext = ONE_REPLICA) -> int:
        """As in the base class."""
        return -(-self.split.num_examples // self.max_images)

    def for_worker(self, context: tf.distribute.InputContext = ONE_REPLICA) -> tf.data.Dataset:
        """As in the base class."""
        height = self.split.max_height
        width = self.split.max_width

        def decode(record: tf.Tensor) -> dict[str, tf.Tensor]:
            features = records.parse_example(record)
            image, label = transforms.pad(*records.decode_example(features), height, width)
            return {
                "name": features["id"],
                "image": tf.ensure_shape(image, [height, width, 3]),
                "label": tf.ensure_shape(label, [height, width, 1])[..., 0],
                "is_example": tf.constant(1, tf.int64),
            }

        filler = {
            "name": tf.constant(""),
            "image": tf.zeros([height, width, 3], tf.uint8),
            "label": tf.fill([height, width], tf.constant(VOID_LABEL, tf.uint8)),
            "is_example": tf.constant(0, tf.int64),
        }
        fillers = tf.data.Dataset.from_tensors(filler).repeat(-self.split.num_examples % self.max_images)
        options = tf.data.Options()
        options.autotune.enabled = False
        return (
            tf.data.TFRecordDataset(self.split.shard_paths)
            .map(decode, num_parallel_calls=PARALLEL_CALLS)
            .concatenate(fillers)
            .batch(self.max_images, drop_remainder=True)
            .repeat()
            .prefetch(PREFETCHED_BATCHES)
            .with_options(options)
        )


def vocs_sizes(number: int) -> list[tuple[int, int]]:
    """(width, height) of this many images, in VOC's shares and in random order."""
    rng = np.random.default_rng(0)
    sizes = [size for size, share in USUAL_SIZES.items() for _ in range(round(share * number))]
    shorter_sides = rng.integers(200, 500, OTHER_SIZES)
    are_upright = rng.random(OTHER_SIZES) < 0.4
    others = [
        (int(side), 500) if is_upright else (500, int(side))
        for side, is_upright in zip(shorter_sides, are_upright, strict=True)
    ]
    sizes += [others[index] for index in rng.integers(0, OTHER_SIZES, number - len(sizes))]
    return [sizes[index] for index in rng.permutation(number)]


def draw_split(folder: Path, sizes: list[tuple[int, int]]) -> Split:
    """Shards of the demo's shapes, one image per size in the list."""
    pairs = []
    for index, size in enumerate(sizes):
        image, mask = shapes.draw_example(np.random.default_rng(index))
        pair = voc.Pair(f"{index:05d}", str(folder / f"{index:05d}.jpg"), str(folder / f"{index:05d}.png"))
        image.resize(size).save(pair.image, quality=92)
        mask.resize(size, Image.Resampling.NEAREST).save(pair.mask)
        pairs.append(pair)
    return write_shards(folder, pairs)


def timed(run: Callable[[], object], num_images: int) -> Callable[[], float]:
    """A function that returns the images/s of one call."""

    def measure() -> float:
        start = time.perf_counter()
        run()
        return num_images / (time.perf_counter() - start)

    return measure


def build_model() -> keras.Model:
    """ResNet-50 at stride 16, from random weights."""
    return build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES)))))


def one_size() -> None:
    """Rates compared with model.predict's, and the time per pixel that the network sees."""
    model = build_model()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, HEIGHT, WIDTH, 3), np.uint8)
    batch = {
        "image": tf.constant(images),
        "label": tf.constant(rng.integers(0, NUM_CLASSES, (BATCH, HEIGHT, WIDTH), np.uint8)),
        "is_example": tf.ones([BATCH], tf.int64),
    }

    def ours(inference: Inference) -> Callable[[], float]:
        evaluate = make_evaluate_step(tf.distribute.get_strategy(), Predictor(model, inference), CROSS_ENTROPY)
        batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
        return timed(lambda: np.asarray(evaluate(batches)[0].confusion), BATCH)

    rates = take_turns(
        {
            "ours": ours(Inference()),
            "model.predict": timed(lambda: model.predict(images, batch_size=BATCH, verbose=0), BATCH),
            "ours, three scales, mirrored": ours(Inference(SCALES, flip=True)),
        },
        ROUNDS,
    )
    pixels = 2 * sum(scale**2 for scale in SCALES)
    rows = [(name, statistics.median(values), ratio(values, rates["model.predict"])) for name, values in rates.items()]
    figures: dict[str, object] = {
        "ours_over_predict": ratio(rates["ours"], rates["model.predict"]),
        "scales_time_over_pixels": ratio(rates["ours"], rates["ours, three scales, mirrored"]) / pixels,
    }
    report("evaluation", ("what", "images/s", "of model.predict"), rows, figures)


def mixed_sizes(strategy: tf.distribute.Strategy, num_images: int) -> None:
    """Rates over a split with VOC's sizes, and the ratio of padded pixels to the images' own pixels."""
    with strategy.scope():
        predict = Predictor(build_model())
    sizes = vocs_sizes(num_images)
    with tempfile.TemporaryDirectory() as name:
        split = draw_split(Path(name), sizes)
        largest = split.max_height * split.max_width
        forms = {
            "own size, one by one": batches_to_score(EvaluationSettings(), split, 1),
            f"own size, --eval_batch_size={SHARED_BATCH}": batches_to_score(EvaluationSettings(SHARED_BATCH), split, 1),
            f"padded, batches of {SHARED_BATCH}": PaddedBatches(split, SHARED_BATCH, max_pixels=SHARED_BATCH * largest),
        }
        num_batches = batches_to_score(EvaluationSettings(SHARED_BATCH), split, 1).num_steps()
        rates = take_turns(
            {
                form: timed(Evaluator(strategy, predict, CROSS_ENTROPY, batches), num_images)
                for form, batches in forms.items()
            },
            ROUNDS,
        )
    alone, shared, padded = rates.values()
    rows = [(form, statistics.median(values), ratio(values, padded)) for form, values in rates.items()]
    figures: dict[str, object] = {
        "images": num_images,
        "sizes": len(set(sizes)),
        "images_of_a_shared_batch": num_images / num_batches,
        "one_by_one_over_padded": ratio(alone, padded),
        "shared_over_padded": ratio(shared, padded),
        "shared_over_one_by_one": ratio(shared, alone),
        "padded_over_own_pixels": largest / statistics.mean(w * h for w, h in sizes),
    }
    report("evaluation_of_vocs_sizes", ("what", "images/s", "of padded"), rows, figures)


def main() -> None:
    """Both tables."""
    num_images = int(sys.argv[1]) if sys.argv[1:] else IMAGES
    Progress.is_shown = False
    strategy = make_strategy(DeviceSettings(num_gpus=min(1, len(tf.config.list_physical_devices("GPU")))))
    one_size()
    mixed_sizes(strategy, num_images)


if __name__ == "__main__":
    main()
