"""What may change between two starts of a run, and what may not."""

import logging

import pytest

from deeplab.errors import UsageError
from deeplab.model.settings import ModelConfig
from deeplab.run.run_folder import check_run, record_run

CONFIG = ModelConfig(("a", "b"))
FIXED = frozenset({"optimizer", "freeze_batch_norm"})
DEFAULTS_TEXT = "--optimizer=sgd\n--learning_rate=0.007\n--nofreeze_batch_norm\n--precision=float32\n"
FLAGS_TEXT = "--optimizer=sgd\n--learning_rate=0.007\n--nofreeze_batch_norm\n--precision=float32\n--nodeterministic\n"


@pytest.fixture
def model_dir(tmp_path):
    record_run(tmp_path / "run", CONFIG, FLAGS_TEXT)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--optimizer=sgd", "--optimizer=adam"),
        ("--nofreeze_batch_norm", "--freeze_batch_norm"),
        ("--precision=float32", "--precision=float16"),
    ],
)
def test_a_change_that_the_checkpoint_would_not_fit_is_rejected_by_name(model_dir, old, new):
    with pytest.raises(UsageError, match=f"holds a run with {old}, these flags say {new}; use another folder"):
        check_run(model_dir, CONFIG, FLAGS_TEXT.replace(old, new), DEFAULTS_TEXT, FIXED)


def test_another_model_is_rejected_by_name(model_dir):
    with pytest.raises(UsageError, match=r"holds a run with atrous_rates \(6, 12, 18\), these flags say \(6, 12\)"):
        check_run(model_dir, ModelConfig(("a", "b"), atrous_rates=(6, 12)), FLAGS_TEXT, DEFAULTS_TEXT, FIXED)


def test_harmless_changes_are_logged(model_dir, caplog):
    caplog.set_level(logging.INFO, "deeplab")
    changed = FLAGS_TEXT.replace("0.007", "0.01").replace("--nodeterministic", "--deterministic")
    changed = changed.replace("float32", "bfloat16") + "--epochs=3.0\n"
    check_run(model_dir, CONFIG, changed, DEFAULTS_TEXT, FIXED)
    assert [record.message for record in caplog.records] == [
        "changed since the last start: --nodeterministic -> --deterministic",
        "changed since the last start: not set -> --epochs=3.0",
        "changed since the last start: --learning_rate=0.007 -> --learning_rate=0.01",
        "changed since the last start: --precision=float32 -> --precision=bfloat16",
    ]


def test_the_same_flags_change_nothing(model_dir, caplog):
    caplog.set_level(logging.INFO, "deeplab")
    check_run(model_dir, CONFIG, FLAGS_TEXT, DEFAULTS_TEXT, FIXED)
    assert not caplog.records


def test_a_flag_that_the_version_of_the_run_did_not_have_was_at_its_default(model_dir, caplog):
    caplog.set_level(logging.INFO, "deeplab")
    fixed, defaults = FIXED | {"repeat_times"}, DEFAULTS_TEXT + "--repeat_times=2\n--repeat_classes=\n"
    check_run(model_dir, CONFIG, FLAGS_TEXT + "--repeat_times=2\n--repeat_classes=\n", defaults, fixed)
    assert not caplog.records
    check_run(model_dir, CONFIG, FLAGS_TEXT + "--repeat_times=2\n--repeat_classes=a\n", defaults, fixed)
    assert caplog.records[0].message == "changed since the last start: --repeat_classes= -> --repeat_classes=a"
    with pytest.raises(UsageError, match="holds a run with --repeat_times=2, these flags say --repeat_times=3"):
        check_run(model_dir, CONFIG, FLAGS_TEXT + "--repeat_times=3\n--repeat_classes=\n", defaults, fixed)
