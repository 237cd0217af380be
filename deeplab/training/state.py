"""Everything that training changes, which is everything that a checkpoint holds."""

from contextlib import AbstractContextManager

import keras
import tensorflow as tf

from deeplab.training.optimizer import averaged_weights
from deeplab.training.schedule import Schedule


class TrainState:
    """The networks, the optimizer, and the loop's memory.

    The counters are variables on the host (int64 scalars; `best_mean_iou` is float64).

    Attributes:
        model: the network that is scored and used: images -> logits.
        training_model: the network that is trained: `model`, or `model` with an auxiliary head as a second output.
        optimizer: built, with its slots and loss scale.
        schedule: gives the learning rate; a plateau lowers its scale.
        step: number of global batches, including those whose update float16 loss scaling skipped; the optimizer's own
            counter does not include these.
        examples: number of examples in those batches: the position in the data, even if the batch size changes.
        num_replicas: number of replicas that computed the most recent batch.
        evaluated_step: the step of the most recent evaluation.
        best_mean_iou: the best of all evaluations; -1 before the first.
        evaluations_since_best: number of evaluations without a better mIoU, for early stopping.
        evaluations_since_plateau: the same, counted from the last lowering of the learning rate.
    """

    def __init__(
        self,
        model: keras.Model,
        training_model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        schedule: Schedule,
    ) -> None:
        self.model = model
        self.training_model = training_model
        self.optimizer = optimizer
        self.schedule = schedule
        with tf.device("CPU:0"):
            self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.examples = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.num_replicas = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.evaluated_step = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.best_mean_iou = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
            self.evaluations_since_best = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.evaluations_since_plateau = tf.Variable(0, dtype=tf.int64, trainable=False)

    def advance(self, num_steps: int, global_batch_size: int) -> None:
        """Counts completed steps."""
        self.step.assign_add(num_steps)
        self.examples.assign_add(num_steps * global_batch_size)

    def learning_rate(self, updates_ago: int = 0) -> float:
        """The learning rate of the most recent update, or of an earlier one.

        Keras counts updates without those that float16 loss scaling skipped, and so does the schedule.
        """
        newest = getattr(self.optimizer, "inner_optimizer", self.optimizer).iterations - 1
        return float(self.schedule(newest - updates_ago))

    def note_evaluation(self, mean_iou: float) -> bool:
        """Records an evaluation at this step; returns whether its mean IoU (0 to 1) is the best so far."""
        self.evaluated_step.assign(self.step)
        is_best = mean_iou > float(self.best_mean_iou)
        if is_best:
            self.best_mean_iou.assign(mean_iou)
        for counter in (self.evaluations_since_best, self.evaluations_since_plateau):
            counter.assign(0 if is_best else counter + 1)
        return is_best

    def forget_scores(self) -> None:
        """As before the first evaluation, for a run whose validation split is another one now."""
        self.best_mean_iou.assign(-1.0)
        self.evaluations_since_best.assign(0)
        self.evaluations_since_plateau.assign(0)

    def averaged_weights(self) -> AbstractContextManager:
        """Puts the weights to score and to keep as the best into the networks; see `optimizer.averaged_weights`."""
        return averaged_weights(self.optimizer, self.training_model.trainable_variables)

    def as_checkpoint(self) -> tf.train.Checkpoint:
        """The whole state, under the keys of checkpoint files."""
        counters = tf.Module()
        for name, value in vars(self).items():
            if isinstance(value, tf.Variable):
                setattr(counters, name, value)
        # Keras leaves dropout's random state out of a model's checkpoint.
        seeds = [v.value for v in self.training_model.variables if v.path.endswith("seed_generator_state")]
        return tf.train.Checkpoint(
            model=self.model,
            training_model=self.training_model,
            optimizer=self.optimizer,
            learning_rate_scale=self.schedule.scale,
            state=counters,
            random_state=seeds,
        )
