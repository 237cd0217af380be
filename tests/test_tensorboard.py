"""What a run's events hold for TensorBoard: pictures, flags, hyperparameters and layout."""

import re

import numpy as np
import tensorflow as tf
from absl import flags
from stand_ins import NAMES
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from deeplab import settings
from deeplab.model.settings import InitSettings
from deeplab.run.log import RunLog
from deeplab.run.tensorboard import TAGS
from deeplab.training.metrics import Evaluation, scores
from deeplab.training.settings import LossSettings, OptimizerSettings
from deeplab.view import pictures
from deeplab.view.panel import Panel


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
