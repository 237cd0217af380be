"""Signals, ends and restarts of the loop: no step is lost and none repeated."""

import os
import signal

import pytest
from small_run import records_of as _records
from stand_ins import Run, make_plan

from deeplab.errors import Interrupted
from deeplab.run.checkpoints import checkpoint_step

pytestmark = pytest.mark.usefixtures("signal_handlers")


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


def test_half_a_line_from_a_killed_process_is_not_a_record(tmp_path):
    plan = make_plan(2, steps_per_epoch=2, global_batch_size=1, log_every_steps=1)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"step": 2, "sp')
    Run(tmp_path, plan).trainer.train()
    assert [record["step"] for record in _records(tmp_path)] == [1, 1, 2]


def test_another_batch_size_continues_at_the_same_example(tmp_path):
    Run(tmp_path, make_plan(3, steps_per_epoch=10, global_batch_size=8)).trainer.train()
    run = Run(tmp_path, make_plan(5, steps_per_epoch=20, global_batch_size=4))
    assert int(run.state.examples) == 24
    run.trainer.train()
    assert (int(run.state.step), int(run.state.examples)) == (5, 32)
