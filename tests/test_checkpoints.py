"""Checkpoints: what they hold, when they are saved and deleted, and how damaged and foreign ones are told."""

import contextlib
import resource
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from stand_ins import Run, make_plan

from deeplab.errors import DataError, DeepLabError
from deeplab.run.checkpoints import best_path, check_whole, checkpoint_step, checkpoints_in, restore_model

pytestmark = pytest.mark.usefixtures("signal_handlers")


def test_best_checkpoint_is_from_the_best_evaluation(tmp_path):
    plan = make_plan(5, steps_per_epoch=1, global_batch_size=1)
    run = Run(tmp_path, plan, val_ious=[0.2, 0.6, 0.4, 0.6, 0.1])
    run.trainer.train()
    assert checkpoint_step(best_path(tmp_path / "checkpoints")) == 2
    assert checkpoint_step(run.checkpoints.latest_path) == 5


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


def test_damage_to_what_a_restored_network_needs_is_told_and_other_damage_is_not(tmp_path):
    """Only what it needs is read: not the optimizer's variables, which are most of a checkpoint."""
    images = keras.Input((None, None, 1))
    model = keras.Model(images, keras.layers.Conv2D(3, 3)(images))
    other = tf.Variable(tf.range(100.0, 150.0))
    path = tf.train.Checkpoint(model=model, other=other).save(str(tmp_path / "ckpt"))
    data = Path(f"{path}.data-00000-of-00001")
    whole = data.read_bytes()
    for values, words in ((model.weights[0].numpy(), "damaged checkpoint"), (other.numpy(), None)):
        place = whole.index(values.tobytes()) + 5
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match=words) if words else contextlib.nullcontext():
            restore_model(model, path)
        with pytest.raises(DataError, match="damaged checkpoint"):
            check_whole(path)
    data.write_bytes(whole[:10])
    with pytest.raises(DataError, match="damaged checkpoint"):
        restore_model(model, path)


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


def test_checkpoints_are_also_saved_by_the_clock(tmp_path, monkeypatch):
    plan = make_plan(6, steps_per_epoch=6, global_batch_size=1, log_every_steps=2, checkpoint_minutes=30)
    run = Run(tmp_path, plan)
    start = time.monotonic()
    # A step takes ten minutes: after 2 steps 20 have passed, after 4 steps 40.
    clock = SimpleNamespace(monotonic=lambda: start + 600 * run.step, perf_counter=time.perf_counter)
    monkeypatch.setattr("deeplab.trainer.time", clock)
    run.trainer.train()
    assert [checkpoint_step(path) for path in checkpoints_in(tmp_path / "checkpoints" / "latest")] == [4, 6]


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
