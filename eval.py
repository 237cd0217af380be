"""Scores a trained model on a split: per-class IoU, mean IoU and accuracies at native resolution.

python eval.py --model_dir=runs/voc --tfrecord_dir=shards --split=val --output_dir=runs/voc/pictures --report=runs/voc
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import deeplab.quiet  # noqa: F401

# isort: split
import numpy as np

from deeplab import distribution, flags, program, report, runs, visualize
from deeplab.data import pipeline, voc
from deeplab.data.manifest import Manifest, damage_named, read_manifest, verify_shards
from deeplab.errors import DataError, UsageError
from deeplab.files import is_plain_name, write_text
from deeplab.flags import FLAGS
from deeplab.model.inference import make_predictor
from deeplab.training.checkpoint import checkpoint_step
from deeplab.training.evaluation import make_evaluation
from deeplab.training.losses import Loss
from deeplab.training.metrics import table

logger = logging.getLogger("deeplab")


def main(argv: list[str]) -> None:
    """Flags -> checkpoint and data set -> scores, metrics.json, pictures, report."""
    if argv[1:]:
        raise UsageError(f"unexpected argument {argv[1]!r}: eval.py takes flags alone")
    flags.require("model_dir", "tfrecord_dir")
    strategy = distribution.make_strategy("mirrored", FLAGS.num_gpus, FLAGS.num_cpu_replicas)
    batch_size = flags.eval_batch_size(strategy.num_replicas_in_sync)
    distribution.set_numerics(FLAGS.precision, seed=0, deterministic=False)
    model_dir, tfrecord_dir = flags.path("model_dir"), flags.path("tfrecord_dir")
    manifest = read_manifest(tfrecord_dir, FLAGS.split)
    if FLAGS.verify:
        verify_shards(tfrecord_dir, manifest)
    with strategy.scope():
        model, config, checkpoint = runs.load_model(model_dir, FLAGS.checkpoint, flags.output_stride())
    if manifest.class_names != config.class_names:
        raise UsageError(f"--tfrecord_dir={tfrecord_dir}: its classes are not those of the model in {model_dir}")
    step = checkpoint_step(checkpoint)
    logger.info("scoring %s on %s, %d images", checkpoint, FLAGS.split, manifest.num_examples)

    output_dir, report_dir = flags.optional_path("output_dir"), flags.optional_path("report")
    writer = _PictureWriter(output_dir, config.class_names) if output_dir is not None else None
    ranking = report.ImageRanking(config.num_classes) if report_dir is not None else None
    loss = Loss("cross_entropy", config.num_classes, ignore_label=voc.IGNORE_LABEL)
    inference = flags.inference()
    evaluate = make_evaluation(
        strategy,
        make_predictor(model, inference),
        loss,
        lambda context: pipeline.evaluation_batches(tfrecord_dir, manifest, batch_size, context),
        num_batches=math.ceil(manifest.num_examples / batch_size),
    )
    takers = [taker for taker in (writer and writer.add, ranking and ranking.add) if taker]
    with damage_named(tfrecord_dir, [manifest]):
        evaluation = evaluate(_pairing(tfrecord_dir, manifest, takers) if takers else None)

    print(table(config.class_names, evaluation.scores))
    record = {
        "step": step,
        "split": FLAGS.split,
        **evaluation.losses,
        **evaluation.scores.to_json(config.class_names),
        "num_images": evaluation.num_images,
        "checkpoint": checkpoint,
        "output_stride": config.output_stride,
        **asdict(inference),
    }
    folder = output_dir or model_dir / "eval" / FLAGS.split
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(record) + "\n")
    logger.info("wrote %s", folder / "metrics.json" if writer is None else f"metrics.json and pictures to {folder}")
    if report_dir is not None and ranking is not None:
        report_dir.mkdir(parents=True, exist_ok=True)
        facts = {
            "data": f"{tfrecord_dir}, split {FLAGS.split}",
            "checkpoint": f"{checkpoint} (step {step:,})",
            "network": f"DeepLab v3 on {config.backbone}, output stride {config.output_stride}",
            **asdict(inference),
        }
        records = report.read_records(model_dir / "metrics.jsonl")
        page = report.render(
            f"{model_dir.name} on {FLAGS.split}", config.class_names, evaluation, ranking, records, facts
        )
        write_text(report_dir / "report.html", page)
        logger.info("wrote %s", report_dir / "report.html")


def _pairing(tfrecord_dir: Path, manifest: Manifest, takers: list[Callable]) -> Callable[[Iterator[np.ndarray]], None]:
    """A function that takes the predictions of the split's next examples, and hands each on with its example.

    Takers get (name, image, label, prediction) at native size; fillers at the end have no example.
    """
    examples = pipeline.examples(tfrecord_dir, manifest).as_numpy_iterator()

    def hand_on(predictions: Iterator[np.ndarray]) -> None:
        for padded, (name, image, label) in zip(predictions, examples, strict=False):
            if not is_plain_name(name.decode(errors="replace")):
                raise DataError(f"{tfrecord_dir}: an example is called {name!r}, which is no plain file name")
            for take in takers:
                take(name.decode(), image, label, padded[: label.shape[0], : label.shape[1]])

    return hand_on


class _PictureWriter:
    """Writes masks/ID.png (palettised prediction) and side_by_side/ID.png (image | truth | prediction | errors)."""

    def __init__(self, output_dir: Path, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._masks, self._rows = output_dir / "masks", output_dir / "side_by_side"
        self._masks.mkdir(parents=True, exist_ok=True)
        self._rows.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        """One example and its prediction."""
        visualize.save(visualize.colour_mask(prediction), self._masks / f"{name}.png")
        row = visualize.panel(image, label, prediction, self._class_names, largest_side=max(label.shape))
        visualize.save(row, self._rows / f"{name}.png")


if __name__ == "__main__":
    program.run(main, flags.define_eval_flags)
