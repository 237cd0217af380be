"""The processes that train together: which one is the chief, and how they share what one of them knows."""

import logging

import tensorflow as tf

from deeplab.progress import Progress

logger = logging.getLogger("deeplab")


class Workers:
    """All workers of a strategy, or the only process. The chief logs and shows progress for all, others only warn.

    Attributes:
        are_several: whether several processes train together.
        is_chief: whether this process writes the run's files: the first worker, or the only process.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.are_several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.is_chief = not self.are_several or strategy.cluster_resolver.task_id == 0
        if not self.is_chief:
            logger.setLevel(logging.WARNING)
            Progress.is_shown = False

        @tf.function
        def count(flag: tf.Tensor) -> tf.Tensor:
            return strategy.reduce("SUM", strategy.run(lambda value: value, args=(flag,)), axis=None)

        self._count = count

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any worker. All must call it at the same point; they wait for each other."""
        return float(self._count(tf.constant(float(flag)))) > 0 if self.are_several else flag

    def wait(self) -> None:
        """Returns when all workers have called it."""
        self.any(False)
