"""The processes that train together: who is the chief, and what any of them knows."""

import tensorflow as tf


class Workers:
    """All workers of a strategy; in a program that trains in one process, that one.

    Attributes:
        are_several: whether several processes train together.
        is_chief: whether this process writes what a run leaves: the first worker, or the only one.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.are_several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.is_chief = not self.are_several or strategy.cluster_resolver.task_id == 0

        @tf.function
        def count(flag: tf.Tensor) -> tf.Tensor:
            return strategy.reduce("SUM", strategy.run(lambda value: value, args=(flag,)), axis=None)

        self._count = count

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any worker. All of them must call it at the same point, and wait for each other."""
        return float(self._count(tf.constant(float(flag)))) > 0 if self.are_several else flag

    def wait(self) -> None:
        """Returns when all workers have called it."""
        self.any(False)
