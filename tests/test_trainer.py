"""When the loop logs, evaluates, saves and stops; the step, the data and the model are stand-ins."""

import contextlib
import json
import os
import re
import resource
import signal
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from deeplab import settings
from deeplab.distribute.workers import Workers
from deeplab.errors import DataError, DeepLabError, Interrupted
from deeplab.model.settings import InitSettings
from deeplab.program.signals import signals_seen
from deeplab.run.checkpoints import (
    Checkpoints,
    best_path,
    check_whole,
    checkpoint_step,
    checkpoints_in,
    restore_model,
)
from deeplab.run.log import RunLog
from deeplab.run.tensorboard import TAGS
from deeplab.trainer import Feed, Trainer
from deeplab.training.metrics import Evaluation, scores
from deeplab.training.optimizer import make_optimizer
from deeplab.training.plan import Plan
from deeplab.training.schedule import Schedule
from deeplab.training.settings import LossSettings, OptimizerSettings, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.totals import StepTotals
from deeplab.view import pictures
from deeplab.view.panel import Panel

NAMES = ("background", "thing")


@pytest.fixture(autouse=True)
def _signals():
    """Restores the signal handlers that the loop sets."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


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


def _records(model_dir):
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


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


def test_best_checkpoint_is_from_the_best_evaluation(tmp_path):
    plan = make_plan(5, steps_per_epoch=1, global_batch_size=1)
    run = Run(tmp_path, plan, val_ious=[0.2, 0.6, 0.4, 0.6, 0.1])
    run.trainer.train()
    assert checkpoint_step(best_path(tmp_path / "checkpoints")) == 2
    assert checkpoint_step(run.checkpoints.latest_path) == 5


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


def test_a_restart_remembers_how_long_it_has_waited(tmp_path):
    settings = {"steps_per_epoch": 1, "global_batch_size": 1, "plateau_patience": 2, "early_stopping_patience": 5}
    Run(tmp_path, make_plan(4, **settings), val_ious=[0.5, *[0.4] * 3]).trainer.train()
    run = Run(tmp_path, make_plan(20, **settings), val_ious=[0.4] * 10)
    assert checkpoint_step(run.restored) == 4
    run.trainer.train()
    assert run.step == 6
    assert float(run.scale) == 0.25


def test_signal_saves_and_says_so(tmp_path):
    run = Run(tmp_path, make_plan(10, steps_per_epoch=5, global_batch_size=1), val_ious=[0.1, 0.2], signal_at=3)
    with pytest.raises(
        Interrupted, match=r"SIGTERM: stopped after step 3, newest checkpoint .*latest/ckpt-3"
    ) as raised:
        run.trainer.train()
    assert raised.value.exit_status == 75
    assert run.evaluated_at == []
    again = Run(tmp_path, make_plan(10, steps_per_epoch=5, global_batch_size=1), val_ious=[0.1, 0.2])
    again.trainer.train()
    assert (sum(again.calls), again.evaluated_at) == (7, [5, 10])


def test_a_signal_before_the_loop_whose_exception_was_lost_stops_it(tmp_path, monkeypatch):
    monkeypatch.setattr("deeplab.program.signals.signals_seen", [signal.SIGTERM])
    run = Run(tmp_path, make_plan(10, steps_per_epoch=5, global_batch_size=1), val_ious=[0.1, 0.2])
    with pytest.raises(Interrupted, match="SIGTERM: stopped after step 0, newest checkpoint None"):
        run.trainer.train()
    assert run.calls == []


@pytest.mark.parametrize("signal_at", [4, 5, 6])
def test_an_evaluation_postponed_by_a_signal_is_run_after_the_restart(tmp_path, signal_at):
    plan = make_plan(10, steps_per_epoch=5, global_batch_size=1)
    with pytest.raises(Interrupted):
        Run(tmp_path, plan, val_ious=[0.1, 0.2], signal_at=signal_at).trainer.train()
    Run(tmp_path, plan, val_ious=[0.3, 0.4]).trainer.train()
    assert [record["step"] for record in _records(tmp_path) if record["split"] == "val"] == [5, 10]


def test_signal_interrupts_an_evaluation_which_is_run_once_after_the_restart(tmp_path):
    plan = make_plan(10, steps_per_epoch=5, global_batch_size=1)
    run = Run(tmp_path, plan, val_ious=[0.1, 0.2])
    run.evaluated_at = _Signalling()
    with pytest.raises(Interrupted, match=r"stopped after step 5, .*ckpt-5"):
        run.trainer.train()
    assert not [record for record in _records(tmp_path) if record["split"] == "val"]
    again = Run(tmp_path, plan, val_ious=[0.1, 0.2])
    again.trainer.train()
    assert again.evaluated_at == [5, 10]


def test_a_postponed_evaluation_of_the_last_step_is_run_once(tmp_path):
    plan = make_plan(10, steps_per_epoch=10, global_batch_size=1)
    run = Run(tmp_path, plan, val_ious=[0.1])
    run.evaluated_at = _Signalling()
    with pytest.raises(Interrupted, match="after step 10"):
        run.trainer.train()
    for expected in ([10], []):
        again = Run(tmp_path, plan, val_ious=[0.1])
        again.trainer.train()
        assert (again.evaluated_at, again.calls) == (expected, [])


def test_a_process_killed_while_it_evaluates_loses_no_step(tmp_path):
    plan = make_plan(10, steps_per_epoch=5, global_batch_size=1)
    run = Run(tmp_path, plan, val_ious=[0.1, 0.2])
    run.evaluated_at = _Dying()
    with pytest.raises(_Killed):
        run.trainer.train()
    again = Run(tmp_path, plan, val_ious=[0.1, 0.2])
    assert checkpoint_step(again.restored) == 5
    again.trainer.train()
    assert (again.evaluated_at, sum(again.calls)) == ([5, 10], 5)


class _Killed(BaseException):
    """What no handler catches."""


class _Dying(list):
    """Ends the process, as it were, when something is noted in it."""

    def append(self, item):
        raise _Killed


class _Signalling(list):
    """Sends SIGTERM when something is appended."""

    def append(self, item):
        os.kill(os.getpid(), signal.SIGTERM)


def test_steps_that_loss_scaling_skipped_count_on_a_restart(tmp_path, caplog):
    """Otherwise a run would use data it has already seen, and stop too early."""
    run = Run(tmp_path, make_plan(4, steps_per_epoch=4, global_batch_size=1, log_every_steps=4))
    run.overflows = True
    run.trainer.train()
    assert _records(tmp_path) == []  # there is no loss to report
    assert "4 of 4 updates up to step 4 skipped: float16 overflow" in caplog.text
    again = Run(tmp_path, make_plan(4, steps_per_epoch=4, global_batch_size=1))
    assert (again.step, int(again.optimizer.iterations)) == (4, 0)


@pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_newest_checkpoint_is_named_and_the_previous_one_used(tmp_path, caplog, ending, damage):
    Run(tmp_path, make_plan(3, steps_per_epoch=9, global_batch_size=1, checkpoint_steps=1)).trainer.train()
    _damage(tmp_path / "checkpoints" / "latest" / f"ckpt-3{ending}", damage)
    run = Run(tmp_path, make_plan(3, steps_per_epoch=9, global_batch_size=1))
    assert run.step == 2
    if (ending, damage) != (".index", "gone"):
        assert "latest/ckpt-3: damaged checkpoint" in caplog.text
    run.trainer.train()
    assert Run(tmp_path, make_plan(3, steps_per_epoch=9, global_batch_size=1)).step == 3


def _damage(path, how):
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "cut":
        path.write_bytes(content[:middle])
    elif how == "changed":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.unlink()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path):
    Run(tmp_path, make_plan(2, steps_per_epoch=9, global_batch_size=1, checkpoint_steps=1)).trainer.train()
    for path in (tmp_path / "checkpoints" / "latest").glob("*.data*"):
        _damage(path, "cut")
    with pytest.raises(DataError, match="every checkpoint is damaged"):
        Run(tmp_path, make_plan(2, steps_per_epoch=9, global_batch_size=1))


@pytest.mark.parametrize("content", [None, b"", b"\x92\xff" * 50, b'model_checkpoint_path: "ckpt-99"'])
def test_checkpoints_are_found_without_tensorflows_list_of_them(tmp_path, content):
    """Old checkpoints are still deleted, in order."""
    Run(tmp_path, make_plan(12, steps_per_epoch=99, global_batch_size=1, checkpoint_steps=3), [0.5]).trainer.train()
    for name in ("latest", "best"):
        path = tmp_path / "checkpoints" / name / "checkpoint"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    assert checkpoint_step(best_path(tmp_path / "checkpoints")) == 12
    again = Run(tmp_path, make_plan(18, steps_per_epoch=99, global_batch_size=1, checkpoint_steps=3), [0.6])
    assert again.step == 12
    again.trainer.train()
    found = [checkpoint_step(path) for path in checkpoints_in(tmp_path / "checkpoints" / "latest")]
    assert found == [12, 15, 18]
    assert [checkpoint_step(path) for path in checkpoints_in(tmp_path / "checkpoints" / "best")] == [18]


def test_no_changed_byte_of_a_checkpoint_goes_unnoticed(tmp_path):
    """Each is either refused or read exactly as written (some bytes of the index are fillers)."""
    rng = np.random.default_rng(0)
    path = tf.train.Checkpoint(a=tf.Variable(rng.normal(size=20)), b=tf.Variable(3)).write(str(tmp_path / "ckpt-1"))

    def content():
        reader = tf.train.load_checkpoint(path)
        return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in reader.get_variable_to_shape_map()}

    written, refused = content(), 0
    for file in sorted(tmp_path.iterdir()):
        original = file.read_bytes()
        for place in rng.choice(len(original), 50, replace=False):
            file.write_bytes(original[:place] + bytes([original[place] ^ 1 << rng.integers(8)]) + original[place + 1 :])
            try:
                check_whole(path)
                assert content() == written
            except DataError:
                refused += 1
        file.write_bytes(original)
    assert refused > 80


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tmp_path):
    """It names the images of the first step that failed, even if more steps followed before a log line."""
    run = Run(tmp_path, make_plan(12, steps_per_epoch=2, global_batch_size=4, log_every_steps=6), [0.1] * 6, bad_step=3)
    with pytest.raises(DeepLabError, match=r"not finite in step 3, at learning rate 0\.1; .*latest/ckpt-2"):
        run.trainer.train()
    assert checkpoint_step(run.checkpoints.latest_path) == 2
    facts = json.loads((tmp_path / "non_finite.json").read_text())
    assert facts["step"] == 3
    assert facts["images"] == ["image 8", "image 9", "image 10", "image 11"]


def test_half_a_line_from_a_killed_process_is_not_a_record(tmp_path):
    plan = make_plan(2, steps_per_epoch=2, global_batch_size=1, log_every_steps=1)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"step": 2, "sp')
    Run(tmp_path, plan).trainer.train()
    assert [record["step"] for record in _records(tmp_path)] == [1, 1, 2]


def test_checkpoints_are_also_saved_by_the_clock(tmp_path, monkeypatch):
    plan = make_plan(6, steps_per_epoch=6, global_batch_size=1, log_every_steps=2, checkpoint_minutes=30)
    run = Run(tmp_path, plan)
    start = time.monotonic()
    # A step takes ten minutes: after 2 steps 20 have passed, after 4 steps 40.
    clock = SimpleNamespace(monotonic=lambda: start + 600 * run.step, perf_counter=time.perf_counter)
    monkeypatch.setattr("deeplab.trainer.time", clock)
    run.trainer.train()
    assert [checkpoint_step(path) for path in checkpoints_in(tmp_path / "checkpoints" / "latest")] == [4, 6]


def test_another_batch_size_continues_at_the_same_example(tmp_path):
    Run(tmp_path, make_plan(3, steps_per_epoch=10, global_batch_size=8)).trainer.train()
    run = Run(tmp_path, make_plan(5, steps_per_epoch=20, global_batch_size=4))
    assert int(run.state.examples) == 24
    run.trainer.train()
    assert (int(run.state.step), int(run.state.examples)) == (5, 32)


def test_a_full_disk_keeps_existing_checkpoints(tmp_path):
    """A limit on file sizes stands in for the disk: the tensors no longer fit."""
    plan = make_plan(2, steps_per_epoch=1, global_batch_size=1)
    Run(tmp_path, make_plan(1, steps_per_epoch=1, global_batch_size=1)).trainer.train()
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("ckpt-*")}
    run = Run(tmp_path, plan)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(DeepLabError, match=r"no checkpoint could be written after step 2 .*intact one: .*ckpt-1"):
            run.state.step.assign(2)
            run.checkpoints.save_latest()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    left = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("ckpt-*")}
    assert left == before
    assert checkpoint_step(Run(tmp_path, plan).restored) == 1


def test_checkpoint_holds_everything(tmp_path):
    """All variables, including dropout's random state, are restored unchanged."""
    run = Run(tmp_path, make_plan(3, steps_per_epoch=1, global_batch_size=1), val_ious=[0.3, 0.4, 0.2])
    rng = np.random.default_rng(0)
    variables = [*run.model.variables, *run.optimizer.variables[1:]]
    for variable in variables:
        variable.assign(rng.integers(0, 100, variable.shape))
    run.trainer.train()
    again = Run(tmp_path, make_plan(3, steps_per_epoch=1, global_batch_size=1))
    restored = [*again.model.variables, *again.optimizer.variables[1:]]
    assert len(restored) == len(variables) > 4
    for old, new in zip(variables, restored, strict=True):
        np.testing.assert_array_equal(new, old, err_msg=old.path)
    assert float(again.state.best_mean_iou) == pytest.approx(0.2)  # (0.4 + 0) / 2


def test_old_checkpoints_are_deleted_and_the_best_is_kept(tmp_path):
    run = Run(tmp_path, make_plan(6, steps_per_epoch=1, global_batch_size=1), val_ious=[0.9, *[0.1] * 5])
    run.trainer.train()
    kept = {path.stem for path in (tmp_path / "checkpoints" / "latest").glob("*.index")}
    assert kept == {"ckpt-4", "ckpt-5", "ckpt-6"}
    assert {path.stem for path in (tmp_path / "checkpoints" / "best").glob("*.index")} == {"ckpt-1"}


def test_checkpoints_of_other_models_and_missing_ones_are_rejected(tmp_path):
    run = Run(tmp_path, make_plan(1, steps_per_epoch=1, global_batch_size=1), val_ious=[0.9])
    run.trainer.train()
    images = keras.Input((2, 2, 1))
    other = keras.Model(images, keras.layers.Conv2D(3, 1)(images))
    with pytest.raises(DataError, match="not a checkpoint of this model"):
        restore_model(other, run.checkpoints.latest_path)
    for name in ("ckpt-9", "", "checkpoints/latest/ckpt-1.index"):
        with pytest.raises(
            DataError, match=r"no such checkpoint; name it as in MODEL_DIR/checkpoints/latest/ckpt-1000"
        ):
            restore_model(run.model, str(tmp_path / name))
    with pytest.raises(DataError, match=r"no checkpoint; has train\.py run"):
        best_path(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="ends in its step"):
        checkpoint_step("weights.h5")


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


def _events(folder):
    """(tag, step) -> value of each summary in a folder's events."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[value.tag, event.step] = value
    return found


def test_pictures_of_an_evaluation_go_to_tensorboard(tmp_path):
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 2, (20, 30)).astype(np.uint8), rng.integers(0, 2, (25, 20)).astype(np.uint8)]
    examples = [(f"picture_{n}", np.zeros((*t.shape, 3), np.uint8), t) for n, t in enumerate(truths)]
    panel = Panel(NAMES, count=2)
    log = RunLog(tmp_path, NAMES, panel=panel)
    confusion = np.array([[3, 1], [0, 4]])
    for step in (5, 10):
        for example in examples:
            panel.view(*example, np.ones(example[2].shape, np.uint8))
        log.write_evaluation(step, "val", Evaluation({"loss": 1.0}, scores(confusion), confusion, 2))
    events = {key: value for key, value in _events(tmp_path / "val").items() if key[0].startswith(("pre", "con"))}
    tags = {"confusion_matrix/of_all_images", "predictions/picture_0", "predictions/picture_1"}
    assert set(events) == {(tag, step) for tag in tags for step in (5, 10)}
    png = tf.make_ndarray(events["predictions/picture_1", 10].tensor)[2]
    note = f", mIoU {50 * truths[1].mean():.1f} %"  # all is class 1: no IoU of class 0
    drawn = {"opacity": pictures.OPACITY, "note": note}
    expected = pictures.panel(*examples[1][1:], np.ones((25, 20), np.uint8), NAMES, **drawn)
    np.testing.assert_array_equal(tf.io.decode_png(png, channels=3), np.array(expected))


HYPERPARAMETERS = ("optimizer", "learning_rate", "momentum", "freeze_batch_norm", "focal_gamma")


def test_events_of_a_run_hold_flags_hyperparameters_and_layout(tmp_path):
    defined = flags.FlagValues()
    settings.define((OptimizerSettings, InitSettings, LossSettings), defined)
    defined(["program", "--optimizer=adam", "--learning_rate=0.1", "--momentum=0.8", "--freeze_batch_norm"])
    log = RunLog(tmp_path, NAMES, "--optimizer=adam\n", {name: defined[name] for name in HYPERPARAMETERS})
    log.write(3, "train", {"loss": 2.0, "per_class_iou": {"thing": 0.5, "other": None}, "epoch": 1.0})
    log.write_best(3, 0.25)
    own, train = _events(tmp_path), _events(tmp_path / "train")
    assert set(train) == {("loss/total", 3), ("per_class_iou/thing", 3)}
    assert float(tf.make_ndarray(own["accuracy/best_mean_iou", 3].tensor)) == 0.25
    assert b"--optimizer=adam" in tf.make_ndarray(own["flags", 0].tensor).item()
    experiment = metadata.parse_experiment_plugin_data(own[metadata.EXPERIMENT_TAG, 0].metadata.plugin_data.content)
    columns = ["freeze_batch_norm", "optimizer", "learning_rate", "others"]
    assert [info.name for info in experiment.hparam_infos] == columns
    assert [info.type for info in experiment.hparam_infos] == [2, 1, 3, 1]  # boolean, string, number, string
    row = metadata.parse_session_start_info_plugin_data(
        own[metadata.SESSION_START_INFO_TAG, 0].metadata.plugin_data.content
    )
    assert row.hparams["learning_rate"].number_value == 0.1
    assert row.hparams["others"].string_value == "--momentum=0.8"  # the only other one that is not at its default
    layout = layout_pb2.Layout.FromString(tf.make_ndarray(own["custom_scalars__config__", 0].tensor).item())
    patterns = [chart.multiline.tag[0] for category in layout.category for chart in category.chart]
    # Every chart shows tags that are written.
    for pattern in patterns:
        assert any(re.fullmatch(pattern, f"{tag}/x" if tag.startswith("per_class") else tag) for tag in TAGS.values())
