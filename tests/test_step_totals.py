"""What a step reports beside its loss: the norms of gradient and weights, and the time without a batch."""

import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy
from small_step import BATCH, SIZE, STEPS, K, _batches, _train, small_model

from deeplab.training.losses import Loss
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.step import make_train_step


def _initial_weights():
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = small_model()
    return {variable.path: variable.numpy() for variable in model.trainable_variables}


def _norm(arrays):
    return np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays))


def test_norms_are_those_of_the_first_update():
    """SGD's first update from rest is learning rate x gradient, so the weights show the gradient."""
    before = _initial_weights()
    weights, totals = _train(1, calls=(1,))
    rate = 0.05
    gradient = [(before[path] - weights[path]) / rate for path in before]
    assert totals.gradient_norm == pytest.approx(_norm(gradient), rel=1e-3)
    assert totals.weight_norm == pytest.approx(_norm([weights[path] for path in before]), rel=1e-5)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_weight_norm_is_taken_after_the_last_step_of_a_call(num_replicas):
    trainable = _initial_weights().keys()
    weights, totals = _train(num_replicas, calls=(STEPS,))
    expected = STEPS * _norm([weights[path] for path in trainable])
    assert totals.weight_norm == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"clip_norm": 1e-3}, {"accumulate_steps": 2}])
def test_gradient_norm_is_taken_before_clipping_and_over_all_replicas(options):
    for step_options in ({}, options):
        expected, *others = (
            _train(replicas, calls=(1,), frozen=True, step_options=step_options)[1].gradient_norm for replicas in (1, 2)
        )
        assert others == pytest.approx([expected], rel=1e-4)


def test_time_without_a_batch_is_reported():
    """Each call but the first gets its batch only after a delay; no call can have waited longer than it took."""
    delay, permits = 0.4, threading.Semaphore(0)

    def batches_on_permit():
        for batch in _batches():
            permits.acquire()
            yield batch

    signature = {
        "image": tf.TensorSpec([BATCH, SIZE, SIZE, 3], tf.uint8),
        "label": tf.TensorSpec([BATCH, SIZE, SIZE], tf.uint8),
    }
    strategy = make_strategy(1)
    with strategy.scope():
        model = small_model()
        schedule = Schedule(ScheduleSettings("constant", 1), 0.05, STEPS, tf.Variable(1.0, trainable=False))
        optimizer = make_optimizer(
            OptimizerSettings("sgd", momentum=0.9, weight_decay=0.0), schedule, model.trainable_variables, False
        )
    train = make_train_step(strategy, TrainState(model, model, optimizer, schedule), Loss(K))
    dataset = tf.data.Dataset.from_generator(batches_on_permit, output_signature=signature)
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    permits.release()
    train(iterator, tf.constant(1))
    waits = []
    for _ in range(STEPS - 1):
        start = time.time()
        threading.Timer(delay, permits.release).start()
        waits.append(float(train(iterator, tf.constant(1)).data_wait_seconds))
        assert 0 <= waits[-1] <= time.time() - start + 0.01
    assert max(waits) > delay / 2  # on a busy machine a call may start late
