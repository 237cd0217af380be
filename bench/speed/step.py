"""A compiled training step compared with a bare step, model.fit, PyTorch, and the rate of matrix products.

python bench/speed/step.py

ResNet-50, 21 classes, 384x384, cross-entropy, SGD with momentum; the variants take turns. The limit is the time that
the multiply-adds of the convolutions alone would take at the rate of matrix products on the same cores. The environment
variable TORCH_PYTHON names a Python with torch, if this one has none.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from common import pytorch, ratio, report, sgd_state, take_turns

from deeplab.distribute.numerics import set_precision
from deeplab.distribute.settings import PrecisionSettings
from deeplab.model.convolution import AtrousConv2D
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.inference import Predictor
from deeplab.model.settings import ModelConfig
from deeplab.training.evaluate_step import make_evaluate_step
from deeplab.training.losses import Loss
from deeplab.training.step import make_train_step

SIZE = 384
NUM_CLASSES = 21
STEPS = 1  # per measurement
ROUNDS = 3
MATRIX = 2048
CROSS_ENTROPY = Loss(NUM_CLASSES)
PUBLISHED = "torchvision's conventions"
"""Our step on a network whose backbone has more arithmetic, and whose head has one more convolution."""


def sgd(model: keras.Model) -> keras.optimizers.Optimizer:
    """SGD with momentum, already built."""
    optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
    optimizer.build(model.trainable_variables)
    return optimizer


def seconds_per_step(run: Callable[[], object]) -> Callable[[], float]:
    """A function that times `run`, which runs STEPS steps and waits for them."""

    def measure() -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / STEPS

    return measure


def our_step(
    model: keras.Model,
    batch: dict[str, tf.Tensor],
    steps: int = STEPS,
    loss: Loss = CROSS_ENTROPY,
) -> Callable[[], object]:
    """The step of train.py, with loss, confusion matrix, norms and checks."""
    train = make_train_step(tf.distribute.get_strategy(), sgd_state(model), loss)
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    return lambda: float(train(batches, tf.constant(steps)).losses["loss"])


def bare_step(model: keras.Model, batch: dict[str, tf.Tensor]) -> Callable[[], object]:
    """Forward, mean cross-entropy, backward, apply; nothing else."""
    optimizer = sgd(model)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(batch["image"], training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(batch["label"], tf.int32), logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return lambda: [step().numpy() for _ in range(STEPS)]


def keras_fit(model: keras.Model, batch: dict[str, tf.Tensor]) -> Callable[[], float]:
    """A function that measures a step of `model.fit` with Keras's own cross-entropy, from step end to step end.

    Time after the last step is not counted: fit may wait for tf.data there, which hardly matters in a long epoch.
    """
    model = keras.Model(model.input, model.output)  # the same layers, compiled separately
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile(sgd(model), loss)
    data = tf.data.Dataset.from_tensors((batch["image"], batch["label"])).cache().repeat()
    ends: list[float] = []
    stamp = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: ends.append(time.perf_counter()))

    def measure() -> float:
        ends.clear()
        model.fit(data, steps_per_epoch=1 + STEPS, verbose=0, callbacks=[stamp])
        return (ends[-1] - ends[0]) / STEPS

    return measure


def matrix_product(dtype: tf.DType) -> Callable[[], float]:
    """A function that measures the GFLOP/s of products of square matrices."""
    first, second = (tf.cast(tf.random.stateless_normal([MATRIX, MATRIX], [0, n]), dtype) for n in (1, 2))
    multiply = tf.function(lambda: tf.matmul(first, second))

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(4):
            multiply()
        return 4 * 2 * MATRIX**3 / (time.perf_counter() - start) / 1e9

    return measure


def useful_gflop(model: keras.Model, size: int) -> float:
    """GFLOP of the convolutions, forward, for one image; taps that fall on "same" padding are not counted."""
    total = 0.0
    original = AtrousConv2D.convolution_op

    def taps(pixels: int, outputs: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
        padded = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - pixels, 0) // 2 if padding == "same" else 0
        places = np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation - padded
        return int(((places >= 0) & (places < pixels)).sum())

    def count(layer: AtrousConv2D, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        nonlocal total
        outputs = original(layer, inputs, kernel)
        sides = zip(
            inputs.shape[1:3],
            outputs.shape[1:3],
            layer.kernel_size,
            layer.strides,
            layer.dilation_rate,
            [layer.padding] * 2,
            strict=True,
        )
        total += 2.0 * kernel.shape[2] * kernel.shape[3] * np.prod([taps(*side) for side in sides])
        return outputs

    with mock.patch.object(AtrousConv2D, "convolution_op", count):
        tf.function(model).get_concrete_function(tf.TensorSpec([1, size, size, 3]))
    return total / 1e9


def evaluation(model: keras.Model, batch: dict[str, tf.Tensor]) -> Callable[[], object]:
    """The evaluation step of train.py and eval.py, with loss and confusion matrix."""
    evaluate = make_evaluate_step(tf.distribute.get_strategy(), Predictor(model), CROSS_ENTROPY)
    examples = batch | {"is_example": tf.ones_like(batch["label"][:, 0, 0], tf.int64)}
    batches = iter(tf.data.Dataset.from_tensors(examples).cache().repeat())
    return lambda: [np.asarray(evaluate(batches)[0].confusion) for _ in range(STEPS)]


def compare(precision: str, batch_size: int, output_stride: int, thorough: bool) -> tuple[list[tuple], dict]:
    """Rows of the table and figures for one precision, batch size and stride."""
    set_precision(PrecisionSettings(precision))
    config = ModelConfig(tuple(map(str, range(NUM_CLASSES))), output_stride=output_stride)
    model = build_deeplabv3(config)
    gflop = useful_gflop(model, SIZE)
    gflop_of: dict[str, float] = {}
    rng = np.random.default_rng(0)
    batch = {
        "image": tf.constant(rng.integers(0, 256, (batch_size, SIZE, SIZE, 3), np.uint8)),
        "label": tf.constant(rng.integers(0, NUM_CLASSES, (batch_size, SIZE, SIZE), np.uint8)),
    }
    variants = {"ours": seconds_per_step(our_step(model, batch))}
    if thorough:
        variants["bare step"] = seconds_per_step(bare_step(model, batch))
        variants["model.fit"] = keras_fit(model, batch)
        published = build_deeplabv3(replace(config, backbone_family="torchvision", head_family="torchvision"))
        variants[PUBLISHED] = seconds_per_step(our_step(published, batch))
        gflop_of[PUBLISHED] = useful_gflop(published, SIZE)
    if thorough or output_stride == 8:
        variants["evaluation"] = seconds_per_step(evaluation(model, batch))
    if output_stride == 16:
        settings = map(str, (precision, batch_size, SIZE, output_stride, STEPS))
        if measure := pytorch("pytorch_step.py", *settings):
            variants["PyTorch"] = measure
    variants["matrix products"] = matrix_product(tf.as_dtype(precision))
    measured = take_turns(variants, ROUNDS)
    products = measured.pop("matrix products")
    rows: list[tuple] = []
    figures: dict[str, object] = {}
    for name, seconds in measured.items():
        needed = batch_size * gflop_of.get(name, gflop) * (1 if name == "evaluation" else 3)
        of_limit = ratio([needed / each for each in seconds], products)
        over_ours = "" if name == "evaluation" else ratio(seconds, measured["ours"])
        rate = batch_size / statistics.median(seconds)
        rows.append((precision, batch_size, output_stride, name, rate, over_ours, of_limit))
        figures[f"{name} of limit"] = of_limit
        if name not in ("ours", "evaluation"):
            figures[f"{name} over ours"] = over_ours
    rows.append((precision, batch_size, output_stride, "limit", statistics.median(products) / 3 / gflop, "", 1))
    return rows, {f"{precision} {batch_size} {output_stride} {name}": figure for name, figure in figures.items()}


def main() -> None:
    """Compares all precisions, batch sizes and strides."""
    rows: list[tuple] = []
    figures: dict[str, object] = {}
    for precision, batch_size, output_stride in (
        ("float32", 2, 16),
        ("float32", 4, 16),
        ("float32", 1, 8),
        ("bfloat16", 2, 16),
        ("bfloat16", 4, 16),
    ):
        thorough = (batch_size, output_stride) == (2, 16)
        more_rows, more_figures = compare(precision, batch_size, output_stride, thorough)
        rows += more_rows
        figures |= more_figures
    header = ("precision", "batch", "stride", "step", "images/s", "seconds over ours", "of the limit")
    report("step", header, rows, figures)


if __name__ == "__main__":
    main()
