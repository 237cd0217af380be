"""A trainer whose step, data and model are stand-ins, so that tests see when it does what."""

import os
import signal

import keras
import numpy as np
import tensorflow as tf

from deeplab.distribute.workers import Workers
from deeplab.program.signals import signals_seen
from deeplab.run.checkpoints import Checkpoints
from deeplab.run.log import RunLog
from deeplab.trainer import Feed, Trainer
from deeplab.training.metrics import Evaluation, scores
from deeplab.training.optimizer import make_optimizer
from deeplab.training.plan import Plan
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.totals import StepTotals

NAMES = ("background", "thing")


def _model():
    images = keras.Input((2, 2, 1))
    return keras.Model(images, keras.layers.Dropout(0.5)(keras.layers.Conv2D(2, 1)(images)))


def make_plan(train_steps, steps_per_epoch, global_batch_size, **settings):
    """A plan for a data set with this many steps per epoch."""
    settings = {"eval_every_epochs": 1.0, **settings}
    return Plan(round(steps_per_epoch * global_batch_size), global_batch_size, train_steps=train_steps, **settings)


class Run:
    """A trainer with stand-ins: validation mIoU follows a list, and each call of the step is recorded."""

    def __init__(self, model_dir, plan, val_ious=(), bad_step=None, signal_at=None):
        signals_seen.clear()  # as in a new process
        self.model, self.calls, self.evaluated_at = _model(), [], []
        self.scale = tf.Variable(1.0, trainable=False)
        schedule = Schedule(ScheduleSettings("constant"), 0.1, plan.total_steps, self.scale)
        settings = OptimizerSettings(weight_decay=0.0)
        self.optimizer = make_optimizer(settings, schedule, self.model.trainable_variables, loss_scaling=False)
        self.state = TrainState(self.model, self.model, self.optimizer, schedule)
        self.checkpoints = Checkpoints(model_dir / "checkpoints", model_dir / "checkpoints", self.state)
        self.restored = self.checkpoints.restore_latest()
        self.step = int(self.state.step)
        self.overflows = False
        self._val_ious, self._bad_step, self._signal_at = iter(val_ious), bad_step, signal_at
        self.trainer = Trainer(
            plan,
            self.state,
            self._train,
            Feed(iter(()), lambda first, count: [f"image {number}" for number in range(first, first + count)]),
            evaluate=self._evaluate if val_ious else None,
            checkpoints=self.checkpoints,
            log=RunLog(model_dir, NAMES),
            workers=Workers(tf.distribute.get_strategy()),
        )

    def _train(self, _batches, count):
        count = int(count)
        self.calls.append(count)
        steps = range(self.step + 1, self.step + count + 1)
        self.step += count
        if self._signal_at in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        self.optimizer.iterations.assign_add(0 if self.overflows else count)
        return StepTotals(
            steps=tf.constant(float(count)),
            losses={"loss": tf.constant(float(sum(steps)))},
            gradient_norm=tf.constant(0.0),
            weight_norm=tf.constant(0.0),
            confusion=tf.constant([[3, 1], [0, 4]], tf.int64),
            non_finite=tf.constant(float(sum(self._bad_step is not None and n >= self._bad_step for n in steps))),
            skipped=tf.constant(float(count if self.overflows else 0)),
            data_wait_seconds=tf.constant(float("nan")),
        )

    def _evaluate(self):
        self.evaluated_at.append(self.step)
        hits = round(next(self._val_ious) * 100)
        confusion = np.array([[hits, 100 - hits], [0, 0]])  # IoU of class 0 is `hits` per cent, of class 1 is 0
        return Evaluation({"loss": 1.0}, scores(confusion), confusion, num_images=7)
