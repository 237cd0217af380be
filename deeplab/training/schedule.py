"""The learning rate as a function of the step, computed inside the compiled step."""

import keras
import tensorflow as tf

from deeplab.training.settings import ScheduleSettings

POLYNOMIAL_POWER = 0.9
"""arXiv 1706.05587, section 4.1."""


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then constant, polynomial or cosine decay to 0 at the last step, times `scale`.

    `scale` is a variable (float32 scalar) that the loop lowers between steps, on a plateau.
    """

    def __init__(self, settings: ScheduleSettings, learning_rate: float, train_steps: int, scale: tf.Variable) -> None:
        self._warmup_steps = settings.warmup_steps
        self._learning_rate = learning_rate
        self.scale = scale
        decay_steps = max(train_steps - settings.warmup_steps, 1)
        if settings.schedule == "polynomial":
            self._decay = keras.optimizers.schedules.PolynomialDecay(
                learning_rate, decay_steps, end_learning_rate=0.0, power=POLYNOMIAL_POWER
            )
        elif settings.schedule == "cosine":
            self._decay = keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps)
        else:
            self._decay = lambda step: tf.constant(learning_rate)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Learning rate of update number `step` (from 0): float32 scalar."""
        step = tf.cast(step, tf.float32)
        warmup = self._learning_rate * (step + 1) / max(self._warmup_steps, 1)
        decayed = self._decay(tf.maximum(step - self._warmup_steps, 0.0))
        return self.scale * tf.where(step < self._warmup_steps, warmup, decayed)

    def get_config(self) -> dict:
        """A schedule is rebuilt from the run's flags, never from a config."""
        raise TypeError("a Schedule is rebuilt from the run's flags")
