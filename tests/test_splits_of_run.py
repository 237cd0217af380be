"""Scores belong to the data they were taken on, and the classifier's columns to the names of their classes."""

import logging
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED_DATA
from forked import run

from deeplab.data.source import shapes
from deeplab.errors import DataError, UsageError
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig
from deeplab.run import run_folder
from deeplab.run.splits import SplitRecord, forget_scores_of_other_data, read_splits_of_run, write_splits_of_run
from deeplab.training.plan import Plan
from deeplab.training.state import TrainState

TRAIN = SplitRecord("train", "a" * 64, 12)
VAL, OTHER_VAL = SplitRecord("val", "b" * 64, 5), SplitRecord("val", "c" * 64, 4)


def _state(best):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    state = TrainState(model, model, optimizer, SimpleNamespace(scale=tf.Variable(1.0)))
    state.best_mean_iou.assign(best)
    state.evaluations_since_best.assign(3)
    state.evaluations_since_plateau.assign(2)
    return state


def test_the_best_of_another_split_is_forgotten_and_said(caplog, tmp_path):
    write_splits_of_run(tmp_path, {"train": TRAIN, "val": VAL})
    before = read_splits_of_run(tmp_path)
    state = _state(0.25)
    assert not forget_scores_of_other_data(state, before, {"train": TRAIN, "val": VAL})
    assert not caplog.records
    assert forget_scores_of_other_data(state, before, {"train": TRAIN, "val": OTHER_VAL})
    counters = (state.best_mean_iou, state.evaluations_since_best, state.evaluations_since_plateau)
    assert [float(counter) for counter in counters] == [-1, 0, 0]
    first, second = (record.message for record in caplog.records)
    assert first == (
        "validation: the split val has changed since the last start: 5 images (bbbbbbbb), now 4 images (cccccccc)"
    )
    assert second.startswith("best mIoU 25.00 % is forgotten, and so are patience and plateau")


def test_another_training_split_is_said_and_no_score_is_lost(caplog):
    state = _state(0.25)
    now = {"train": SplitRecord("train", "d" * 64, 10), "val": VAL}
    assert not forget_scores_of_other_data(state, {"train": TRAIN, "val": VAL}, now)
    assert float(state.best_mean_iou) == 0.25
    (record,) = caplog.records
    assert record.message.startswith("training: the split train has changed since the last start: 12 images")


def test_runs_without_a_record_are_taken_as_they_are(caplog, tmp_path):
    assert read_splits_of_run(tmp_path) == {}
    assert not forget_scores_of_other_data(_state(0.25), {}, {"train": TRAIN, "val": VAL})
    assert not caplog.records
    (tmp_path / "splits.json").write_text('{"val": {"name": "val"}}')
    with pytest.raises(DataError, match=r"splits\.json: cannot be read"):
        read_splits_of_run(tmp_path)


@pytest.mark.parametrize("patience", ["early_stopping_patience", "plateau_patience"])
def test_a_patience_needs_a_validation_split(patience):
    plan = Plan(**{patience: 3})
    plan.check_validation(has_split=True)
    with pytest.raises(UsageError, match=f"--{patience}=3: needs a validation split"):
        plan.check_validation(has_split=False)


CLASSES = ("background", "red", "green", "blue")


@pytest.fixture(scope="module")
def run_dir(tiny_backbone, tmp_path_factory):
    """A run of four classes, with the index of its class in every column of the classifier."""
    model_dir = tmp_path_factory.mktemp("columns")
    config = ModelConfig(CLASSES, "tiny")
    model = build_deeplabv3(config)
    logits = model.get_layer("logits")
    logits.kernel.assign(np.ones(logits.kernel.shape) * np.arange(4))
    logits.bias.assign(np.arange(4))
    run_folder.record_run(model_dir, config, "")
    tf.train.Checkpoint(model=model).save(str(model_dir / "checkpoints" / "best" / "ckpt"))
    return model_dir


@pytest.mark.parametrize(
    ("names", "columns", "words"),
    [
        (CLASSES, [0, 1, 2, 3], "classes: the same 4"),
        (("Background", "blue", "green ", "red"), [0, 3, 2, 1], "classes: the same 4, in another order: taken by name"),
        (
            ("background", "green", "yellow"),
            [0, 2, None],
            "classes: kept: background, green; new, and so random: yellow; gone: red, blue",
        ),
        (("blue", "red", "x", "y", "z"), [3, 1, None, None, None], "classes: kept: blue, red; new, and so random: x"),
    ],
)
def test_columns_go_to_the_classes_of_their_name(run_dir, caplog, names, columns, words):
    """The random columns of new classes are those that the model had."""
    caplog.set_level(logging.INFO, "deeplab")
    model = build_deeplabv3(ModelConfig(names, "tiny"))
    logits = model.get_layer("logits")
    before = logits.kernel.numpy()
    run_folder.init_weights(model, run_dir, names)
    for index, column in enumerate(columns):
        expected = before[..., index] if column is None else np.full_like(before[..., index], column)
        np.testing.assert_array_equal(logits.kernel[..., index], expected)
        assert float(logits.bias[index]) == (column or 0)
    assert any(record.message.startswith(words) for record in caplog.records), caplog.text
    assert f"{len(model.weights)} of {len(model.weights)} weights from" in caplog.text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a", "c"), "class 1 is 'c', the model's is 'b'"),
        (("a",), "class 1 is missing, the model's is 'b'"),
        (("a", "b", "c"), "class 2 is 'c', the model's is missing"),
    ],
)
def test_shards_of_other_classes_are_refused_by_the_first_difference(names, words):
    run_folder.check_classes(Path("shards"), ("a", "b"), ("a", "b"))
    with pytest.raises(UsageError, match=f"^--tfrecord_dir=shards: its classes are not those of the model: {words}"):
        run_folder.check_classes(Path("shards"), names, ("a", "b"))


@pytest.mark.slow
def test_a_run_is_continued_on_another_validation_split(tmp_path):
    """As a user would: one epoch, another list, one more; the second evaluation is the best, whatever its score."""
    voc_dir = tmp_path / "voc"
    shapes.write_shapes(voc_dir, num_train=6, num_val=4)
    flags = [f"--voc_dir={voc_dir}", f"--class_names={voc_dir}/class_names.txt", f"--model_dir={tmp_path}/run"]
    flags += ["--backbone=tiny", "--backbone_weights=none", "--crop_size=65", "--global_batch_size=2"]
    flags += ["--eval_every_epochs=1", "--num_gpus=0", f"--tfrecord_dir={tmp_path}/shards"]
    first = run("train.py", *flags, "--epochs=1", "--early_stopping_patience=5")
    assert "has changed since" not in first.stderr
    val = voc_dir / "ImageSets" / "Segmentation" / "val.txt"
    val.write_text("\n".join(val.read_text().split()[:2]))
    flags[-1] = f"--tfrecord_dir={tmp_path}/other_shards"
    second = run("train.py", *flags, "--epochs=2", "--learning_rate=1e-9")
    assert "validation: the split val has changed since the last start: 4 images" in second.stderr
    assert "is forgotten" in second.stderr
    (line,) = (line for line in second.stderr.splitlines() if "validation at step 6" in line)
    score = line.split("mIoU ")[1].split(" %")[0]
    assert f"(best {score} %)" in line
    assert [path.name for path in (tmp_path / "run/checkpoints/best").glob("*.index")] == ["ckpt-6.index"]
    refused = run("train.py", *flags, "--val_split=", "--plateau_patience=2", expect=2)
    assert "--plateau_patience=2: needs a validation split" in refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_weights_of_classes_in_another_order(tiny_backbone, tmp_path):
    """What a user reported (lightly-ai/lightly-train#985): the column of red answered for blue."""
    reports = SHARED_DATA.parent / "reports"
    if not reports.exists():
        pytest.skip(f"needs {reports}")
    flags = ["--backbone=tiny", "--backbone_weights=none", "--crop_size=97", "--global_batch_size=2"]
    flags += ["--train_steps=4", "--num_gpus=0"]
    for name, more in (("base", []), ("order", [f"--init_checkpoint={tmp_path}/base", "--learning_rate=1e-9"])):
        places = [f"--voc_dir={reports / name}", f"--tfrecord_dir={tmp_path}/{name}_shards"]
        done = run("train.py", *places, f"--model_dir={tmp_path}/{name}", *flags, *more)
    assert "in another order: taken by name" in done.stderr
    (before, old), (after, new) = (
        (model.get_layer("logits").kernel.numpy(), config.class_names)
        for model, config, _ in (run_folder.load_model(tmp_path / name) for name in ("base", "order"))
    )
    assert old != new
    for index, name in enumerate(new):
        np.testing.assert_allclose(after[..., index], before[..., old.index(name)], atol=1e-4)
