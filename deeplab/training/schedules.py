"""Learning rate as a function of the step, computed inside the compiled step; and the optimizers."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

SCHEDULES = ("constant", "polynomial", "cosine")
OPTIMIZERS = ("sgd", "adam", "adamw")
POLYNOMIAL_POWER = 0.9
"""arXiv 1706.05587, section 4.1."""


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then constant, polynomial or cosine decay to 0 at the last step, times `scale`.

    `scale` is a variable (float32 scalar) that reduce-on-plateau lowers between steps.
    """

    def __init__(
        self, name: str, learning_rate: float, train_steps: int, warmup_steps: int, scale: tf.Variable
    ) -> None:
        self._warmup_steps = warmup_steps
        self._learning_rate = learning_rate
        self.scale = scale
        decay_steps = max(train_steps - warmup_steps, 1)
        if name == "polynomial":
            self._decay = keras.optimizers.schedules.PolynomialDecay(
                learning_rate, decay_steps, end_learning_rate=0.0, power=POLYNOMIAL_POWER
            )
        elif name == "cosine":
            self._decay = keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps)
        else:
            self._decay = lambda step: tf.constant(learning_rate)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Learning rate of update number `step` (0 is the first): float32 scalar."""
        step = tf.cast(step, tf.float32)
        warmup = self._learning_rate * (step + 1) / max(self._warmup_steps, 1)
        decayed = self._decay(tf.maximum(step - self._warmup_steps, 0.0))
        return self.scale * tf.where(step < self._warmup_steps, warmup, decayed)

    def get_config(self) -> dict:
        """A schedule is rebuilt from the run's flags, never from a config."""
        raise TypeError("a Schedule is rebuilt from the run's flags")


def make_optimizer(
    name: str,
    schedule: Schedule,
    momentum: float,
    weight_decay: float,
    variables: list,
    loss_scaling: bool,
    ema_momentum: float = 0.0,
) -> keras.optimizers.Optimizer:
    """SGD with momentum, Adam or AdamW, built for `variables`; with dynamic loss scaling for float16.

    AdamW decays kernels alone (decoupled); for the others the step adds L2 to the loss. With `ema_momentum` the
    optimizer keeps a moving average of the variables (see `averaged_weights`).
    """
    average = {"use_ema": True, "ema_momentum": ema_momentum} if ema_momentum else {}
    if name == "sgd":
        optimizer = keras.optimizers.SGD(schedule, momentum=momentum, **average)
    elif name == "adam":
        optimizer = keras.optimizers.Adam(schedule, **average)
    else:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay, **average)
        optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not is_kernel(v)])
    if loss_scaling:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)  # slots must exist before the first step and before a restore
    return optimizer


@contextmanager
def averaged_weights(optimizer: keras.optimizers.Optimizer, variables: list) -> Iterator[None]:
    """Within, the variables hold their moving averages, if the optimizer keeps them; after it, what they held before.

    Batch normalisation's moving statistics are averages already and stay.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    before = [variable.numpy() for variable in variables] if inner.use_ema else []
    optimizer.finalize_variable_values(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=bool(before)):
            variable.assign(value)


def is_kernel(variable: keras.Variable) -> bool:
    """Whether weight decay applies: convolution kernels, not biases and not batch normalisation."""
    return variable.path.endswith("kernel")
