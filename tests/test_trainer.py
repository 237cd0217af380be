"""When the loop logs, evaluates, profiles and stops; the step, the data and the model are stand-ins."""

import contextlib
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from small_run import records_of as _records
from stand_ins import Run, _model, make_plan

from deeplab.errors import DeepLabError
from deeplab.run.checkpoints import best_path, checkpoint_step, restore_model
from deeplab.training.optimizer import make_optimizer
from deeplab.training.schedule import Schedule
from deeplab.training.settings import OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState

pytestmark = pytest.mark.usefixtures("signal_handlers")


def test_evaluation_is_due_once_in_each_interval_and_at_the_end():
    plan = make_plan(train_steps=10, steps_per_epoch=2.5, global_batch_size=4)
    assert [step for step in range(1, 11) if plan.evaluation_due(step)] == [3, 5, 8, 10]
    rarely = make_plan(train_steps=11, steps_per_epoch=2.5, global_batch_size=4, eval_every_epochs=2)
    assert [step for step in range(1, 12) if rarely.evaluation_due(step)] == [5, 10, 11]
    at_end = make_plan(train_steps=11, steps_per_epoch=2.5, global_batch_size=4, eval_every_epochs=0)
    assert [step for step in range(1, 12) if at_end.evaluation_due(step)] == [11]
    small_epochs = make_plan(train_steps=3, steps_per_epoch=0.4, global_batch_size=10)
    assert [step for step in range(1, 4) if small_epochs.evaluation_due(step)] == [1, 2, 3]


def test_calls_of_several_steps_stop_where_something_is_due(tmp_path):
    plan = make_plan(
        20, steps_per_epoch=7, global_batch_size=1, steps_per_call=4, log_every_steps=5, checkpoint_steps=18
    )
    run = Run(tmp_path, plan, val_ious=[0.1, 0.2, 0.3])
    run.trainer.train()
    ends = np.cumsum(run.calls).tolist()
    assert ends == [4, 5, 7, 10, 14, 15, 18, 20]
    assert run.evaluated_at == [7, 14, 20]
    assert [record["step"] for record in _records(tmp_path) if record["split"] == "train"] == [5, 7, 10, 14, 15, 18, 20]


def test_records_hold_means_over_the_steps_and_scores_of_their_counts(tmp_path):
    plan = make_plan(6, steps_per_epoch=3, global_batch_size=1, log_every_steps=3, eval_every_epochs=2)
    Run(tmp_path, plan, val_ious=[0.5]).trainer.train()
    first, second, val = _records(tmp_path)
    assert (first["step"], first["loss"], second["loss"]) == (3, 2.0, 5.0)  # means of 1..3 and 4..6
    assert first["epoch"] == 1.0
    # Two calls of one step each gave [[3, 1], [0, 4]]: IoU 3/4 and 4/5.
    assert first["per_class_iou"] == {"background": 0.75, "thing": 0.8}
    assert first["mean_iou"] == pytest.approx(0.775)
    assert (val["split"], val["step"], val["num_images"]) == ("val", 6, 7)
    assert val["per_class_iou"] == {"background": 0.5, "thing": 0.0}


@pytest.mark.parametrize(
    ("log_every_steps", "expected"), [(5, [1.0, 2.0]), (1, [30.0, *[1.0] * 4, *[2.0] * 5])], ids=["others", "alone"]
)
def test_rates_leave_out_the_tracing_in_the_first_step(tmp_path, monkeypatch, log_every_steps, expected):
    """Unless nothing else tells how long a step takes."""
    run = Run(tmp_path, make_plan(10, steps_per_epoch=10, global_batch_size=4, log_every_steps=log_every_steps))
    now = [0.0]
    seconds = iter([30.0, *[1.0] * 4, *[2.0] * 5])

    def train(batches, count):
        now[0] += next(seconds)
        return run._train(batches, count)

    run.trainer._train_step = train
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic)
    monkeypatch.setattr("deeplab.trainer.time", clock)
    run.trainer.train()
    records = _records(tmp_path)
    assert [record["step_seconds"] for record in records] == expected
    assert [record["images_per_second"] for record in records] == [4 / each for each in expected]


def test_the_learning_rate_is_that_of_the_newest_update_and_skipped_ones_do_not_count():
    model = _model()
    schedule = Schedule(ScheduleSettings("polynomial"), 0.1, 10, tf.Variable(1.0, trainable=False))
    optimizer = make_optimizer(OptimizerSettings(), schedule, model.trainable_variables, loss_scaling=True)
    state = TrainState(model, model, optimizer, schedule)
    state.advance(7, global_batch_size=4)
    optimizer.inner_optimizer.iterations.assign(5)  # two of the seven were skipped
    assert state.learning_rate() == pytest.approx(0.1 * (1 - 4 / 10) ** 0.9)
    assert state.learning_rate(updates_ago=4) == pytest.approx(0.1)


def test_plateau_halves_the_learning_rate_and_early_stopping_ends_the_run(tmp_path):
    plan = make_plan(20, steps_per_epoch=1, global_batch_size=1, plateau_patience=2, early_stopping_patience=5)
    run = Run(tmp_path, plan, val_ious=[0.5, *[0.4] * 10])
    run.trainer.train()
    assert run.step == 6  # the best at 1, then five evaluations that are not better
    assert float(run.scale) == 0.25  # lowered after evaluations 3 and 5
    rates = [record["learning_rate"] for record in _records(tmp_path) if record["split"] == "train"]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.1, 0.05, 0.05, 0.025], rtol=1e-6)


def test_without_a_validation_split_the_last_weights_are_the_best(tmp_path):
    Run(tmp_path, make_plan(4, steps_per_epoch=2, global_batch_size=1, checkpoint_steps=1)).trainer.train()
    assert checkpoint_step(best_path(tmp_path / "checkpoints")) == 4
    longer = Run(tmp_path, make_plan(6, steps_per_epoch=2, global_batch_size=1, checkpoint_steps=1))
    longer.trainer.train()
    assert (longer.calls, checkpoint_step(best_path(tmp_path / "checkpoints"))) == ([1, 1], 6)


def test_averaged_weights_are_scored_and_kept_as_the_best_and_training_continues_from_its_own(tmp_path):
    plan = make_plan(2, steps_per_epoch=1, global_batch_size=1)
    run = Run(tmp_path, plan, val_ious=[0.5, 0.4])
    kernel = run.model.layers[1].kernel
    kernel.assign(tf.fill(kernel.shape, 3.0))

    @contextlib.contextmanager
    def averaged():
        kernel.assign(tf.fill(kernel.shape, 7.0))
        yield
        kernel.assign(tf.fill(kernel.shape, 3.0))

    run.state.averaged_weights = averaged
    run.trainer.train()
    again = Run(tmp_path, plan)
    assert (again.model.layers[1].kernel.numpy() == 3).all()
    restore_model(again.model, best_path(tmp_path / "checkpoints"))
    assert (again.model.layers[1].kernel.numpy() == 7).all()


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tmp_path):
    """It names the images of the first step that failed, even if more steps followed before a log line."""
    run = Run(tmp_path, make_plan(12, steps_per_epoch=2, global_batch_size=4, log_every_steps=6), [0.1] * 6, bad_step=3)
    with pytest.raises(DeepLabError, match=r"not finite in step 3, at learning rate 0\.1; .*latest/ckpt-2"):
        run.trainer.train()
    assert checkpoint_step(run.checkpoints.latest_path) == 2
    facts = json.loads((tmp_path / "non_finite.json").read_text())
    assert facts["step"] == 3
    assert facts["images"] == ["image 8", "image 9", "image 10", "image 11"]


def test_best_and_last_metrics_have_their_own_files(tmp_path):
    plan = make_plan(3, steps_per_epoch=1, global_batch_size=1, log_every_steps=1)
    Run(tmp_path, plan, val_ious=[0.2, 0.6, 0.4]).trainer.train()
    best, last = (json.loads((tmp_path / f"metrics_{name}.json").read_text()) for name in ("best", "last"))
    assert (best["val"]["step"], best["val"]["mean_iou"]) == (2, pytest.approx(0.3))
    assert (last["val"]["step"], last["train"]["step"]) == (3, 3)
    records = _records(tmp_path)
    assert last["val"] == records[-1]
    assert best["train"] == next(r for r in records if (r["split"], r["step"]) == ("train", 2))


def test_calls_stop_before_and_after_the_profiled_steps(tmp_path):
    plan = make_plan(12, steps_per_epoch=99, global_batch_size=1, steps_per_call=10, profile_steps=(4, 6))
    run = Run(tmp_path, plan)
    run.trainer.train()
    assert np.cumsum(run.calls).tolist() == [3, 6, 12]


@pytest.mark.parametrize(("steps", "expected"), [((2, 3), [1, 3]), ((1, 9), [0, 4])])
def test_the_profiler_traces_the_named_steps_as_far_as_they_are_run(tmp_path, monkeypatch, steps, expected):
    seen = []
    plan = make_plan(4, steps_per_epoch=99, global_batch_size=1, profile_steps=steps)
    run = Run(tmp_path, plan)
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda logdir: seen.append(run.step))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: seen.append(run.step))
    run.trainer.train()
    assert seen == expected
