"""Ways to compute loss and gradient from low-resolution logits, and the confusion matrix, compared with a whole step.

python bench/speed/losses.py

21 classes, cross-entropy and Dice. Time: medians over rounds; the loss and a training step at batch 2 and 384x384, the
confusion matrix and an evaluation step at batch 8 and 513x513. Memory: the increase in a separate process's peak at
batch 4 and 513x513.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from common import peak_megabytes, ratio, report, take_turns
from step import NUM_CLASSES, SIZE, our_step

from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.head import AlignedUpsampling, Grid
from deeplab.model.settings import ModelConfig
from deeplab.training.losses import Loss
from deeplab.training.metrics import confusion_matrix
from deeplab.training.settings import LossSettings

ROUNDS = 3
Sums = dict[str, tf.Tensor]
LOSS = Loss(NUM_CLASSES, LossSettings("cross_entropy_dice"))


def plain_upsampling(logits: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """TensorFlow's resize between the centres, equal to `AlignedUpsampling` with stride 16 and first centre 0."""
    size = tf.shape(images)[1:3]
    logits = tf.pad(logits, [[0, 0], [0, 1], [0, 1], [0, 0]], "SYMMETRIC")
    dense = tf.raw_ops.ResizeBilinear(images=logits, size=(tf.shape(logits)[1:3] - 1) * 16 + 1, align_corners=True)
    return dense[:, : size[0], : size[1]]


def plain_sums(logits: tf.Tensor, labels: tf.Tensor) -> Sums:
    """Cross-entropy and Dice as they are usually written."""
    valid = tf.not_equal(labels, 255)
    safe_labels = tf.where(valid, tf.cast(labels, tf.int32), 0)
    is_valid = tf.cast(valid, tf.float32)
    losses = is_valid * tf.nn.sparse_softmax_cross_entropy_with_logits(safe_labels, logits)
    truth = tf.one_hot(safe_labels, NUM_CLASSES) * is_valid[..., tf.newaxis]
    probabilities = tf.nn.softmax(logits) * is_valid[..., tf.newaxis]
    return {
        "cross_entropy": tf.reduce_sum(losses),
        "weight": tf.reduce_sum(is_valid),
        "intersection": tf.reduce_sum(truth * probabilities, [0, 1, 2]),
        "probability": tf.reduce_sum(probabilities, [0, 1, 2]),
        "pixels": tf.reduce_sum(truth, [0, 1, 2]),
    }


def by_images(logits: tf.Tensor, labels: tf.Tensor, upsample: Callable) -> Sums:
    """Each image separately: upsampled, summed up and, for the gradient, recomputed."""

    def image_sums(index: int) -> Sums:
        label = labels[index : index + 1]
        images = tf.zeros([*label.shape, 0])
        return tf.recompute_grad(lambda low: LOSS.sums(upsample(low, images), label))(logits[index : index + 1])

    parts = [image_sums(index) for index in range(labels.shape[0])]
    return {name: tf.add_n([part[name] for part in parts]) for name in parts[0]}


def ways() -> dict[str, Callable[[tf.Tensor, tf.Tensor], Sums]]:
    """Low-resolution logits and labels -> sums."""
    upsample = AlignedUpsampling(Grid(16), name="upsampling", dtype="float32")

    def images(labels: tf.Tensor) -> tf.Tensor:
        return tf.zeros([*labels.shape, 0])

    def ours(logits: tf.Tensor, labels: tf.Tensor) -> Sums:
        return LOSS.sums(upsample(logits, images(labels)), labels)

    def recomputed(logits: tf.Tensor, labels: tf.Tensor) -> Sums:
        return tf.recompute_grad(lambda low: ours(low, labels))(logits)

    return {
        "resize, plain loss": lambda logits, labels: plain_sums(plain_upsampling(logits, images(labels)), labels),
        "resize": lambda logits, labels: LOSS.sums(plain_upsampling(logits, images(labels)), labels),
        "matrix products (ours)": ours,
        "ours, recomputed": recomputed,
        "ours, image by image, recomputed": lambda logits, labels: by_images(logits, labels, upsample),
    }


def with_gradient(sums_of: Callable, batch_size: int, size: int) -> Callable[[], float]:
    """A function that times the loss and its gradient with respect to the low-resolution logits."""
    rng = np.random.default_rng(0)
    low = tf.constant(rng.normal(0, 2, (batch_size, -(-size // 16), -(-size // 16), NUM_CLASSES)), tf.float32)
    labels = tf.constant(rng.integers(0, NUM_CLASSES, (batch_size, size, size)), tf.uint8)

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(low)
            sums = sums_of(low, labels)
        return tape.gradient(sums, low, output_gradients=LOSS.gradient(sums))

    return timed(run)


def timed(run: Callable[[], tf.Tensor]) -> Callable[[], float]:
    """A function that runs once and returns the milliseconds."""

    def measure() -> float:
        start = time.perf_counter()
        run().numpy()
        return 1000 * (time.perf_counter() - start)

    return measure


def more_megabytes(name: str) -> float:
    """Increase in this process's peak memory for one way."""
    before = peak_megabytes()
    measure = with_gradient(ways()[name], 4, 513)
    measure()
    return peak_megabytes() - before


def main() -> None:
    """Milliseconds and megabytes of each way, and shares of a step."""
    model = build_deeplabv3(ModelConfig(tuple(map(str, range(NUM_CLASSES)))))
    rng = np.random.default_rng(0)
    batch = {
        "image": tf.constant(rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)),
        "label": tf.constant(rng.integers(0, NUM_CLASSES, (2, SIZE, SIZE), np.uint8)),
    }
    train = our_step(model, batch, steps=1, loss=LOSS)
    images = tf.constant(rng.integers(0, 256, (8, 513, 513, 3), np.uint8))
    labels = tf.constant(rng.integers(0, NUM_CLASSES, (8, 513, 513), np.uint8))
    predict = tf.function(lambda: model(images, training=False))
    logits = predict()

    def count() -> tf.Tensor:
        return confusion_matrix(labels, tf.argmax(logits, -1, tf.int32), NUM_CLASSES)

    variants = {name: with_gradient(way, 2, SIZE) for name, way in ways().items()}
    variants["argmax and confusion matrix"] = timed(tf.function(count))
    variants["training step"] = lambda: 1000 * seconds(train)
    variants["evaluation forward"] = timed(predict)
    measured = take_turns(variants, ROUNDS)
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name, milliseconds in measured.items():
            megabytes = round(pool.apply(more_megabytes, (name,))) if name in ways() else ""
            of_evaluation = name in ("argmax and confusion matrix", "evaluation forward")
            whole = measured["evaluation forward" if of_evaluation else "training step"]
            share = ratio(milliseconds, whole)
            rows.append((name, statistics.median(milliseconds), share, megabytes))
    ours = measured["matrix products (ours)"]
    figures = {
        "ours_over_training_step": ratio(ours, measured["training step"]),
        "resize_plain_over_ours": ratio(measured["resize, plain loss"], ours),
        "confusion_over_evaluation": ratio(measured["argmax and confusion matrix"], measured["evaluation forward"]),
    }
    report("losses", ("what", "ms", "of its step", "peak MB"), rows, figures)


def seconds(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
