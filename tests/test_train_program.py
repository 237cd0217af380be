"""train.py as users start it: what a run leaves and says, signals, resuming, other weights, real images."""

import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from forked import HANGS, ROOT, run
from PIL import Image
from small_run import COLOR, COLORED, STEPS, TRAIN_FLAGS, assert_one_line, records_of, variables_of
from tensorboard.plugins.hparams import metadata

from deeplab.data.shards.split import Split
from deeplab.data.source import shapes, voc
from deeplab.run.run_folder import load_model

pytestmark = pytest.mark.slow


def test_training_leaves_the_promised_files(run_dir):
    records = records_of(run_dir / "run")
    train = [record for record in records if record["split"] == "train"]
    val = [record for record in records if record["split"] == "val"]
    assert [record["step"] for record in train] == list(range(1, STEPS + 1))
    assert [record["step"] for record in val] == [3, 5, 8, 9]  # epochs of 2.5 steps, and the end
    assert train[-1]["loss"] == pytest.approx(train[-1]["cross_entropy"] + train[-1]["dice"], rel=1e-5)
    assert np.mean([record["loss"] for record in train[-3:]]) < train[0]["loss"]
    for record in val:
        assert record["num_images"] == 5
        assert set(record["per_class_iou"]) == set(shapes.CLASS_NAMES)
        ious = [iou for iou in record["per_class_iou"].values() if iou is not None]
        assert record["mean_iou"] == pytest.approx(np.mean(ious))
        assert 0 <= record["pixel_accuracy"] <= 1
        assert 0 <= record["mean_accuracy"] <= 1
    assert (run_dir / "run" / "model.json").exists()
    assert train[-1]["step_seconds"] == pytest.approx(4 / train[-1]["images_per_second"])
    assert train[-1]["host_memory_bytes"] > 1e8
    best, last = (json.loads((run_dir / "run" / f"metrics_{name}.json").read_text()) for name in ("best", "last"))
    assert last["val"] == val[-1]
    assert best["val"] == max(val, key=lambda record: record["mean_iou"])
    (start,) = [json.loads(line) for line in (run_dir / "run" / "starts.jsonl").read_text().splitlines()]
    assert start["first_step"] == 0
    run = start["run"]
    assert (run["images"], run["classes"], run["steps"]) == (10, len(shapes.CLASS_NAMES), STEPS)
    lines = (run_dir / "stderr").read_text().splitlines()
    size = [f"10 images per epoch, {len(shapes.CLASS_NAMES)} classes", f"{STEPS} steps of 4 images (3.6 epochs)"]
    assert all(any(line.endswith(f" {each}") for line in lines) for each in size)
    assert start["command"][0] == "train.py"
    assert start["versions"]["tensorflow"] == tf.__version__
    assert "--global_batch_size=4" in (run_dir / "run" / "flags.txt").read_text()


def test_tensorboard_has_the_same_numbers(run_dir):
    records = {record["step"]: record for record in records_of(run_dir / "run") if record["split"] == "val"}
    seen = {}
    for path in (run_dir / "run" / "val").glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    seen[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    for step, record in records.items():
        tags = {"loss": "loss/total", "mean_iou": "accuracy/mean_iou", "pixel_accuracy": "accuracy/pixel_accuracy"}
        for name, tag in tags.items():
            assert seen[tag, step] == pytest.approx(record[name], rel=1e-6)


def test_the_color_of_the_class_table_is_kept_and_shown_in_tensorboard(run_dir, shapes_dir):
    expected = ["#0a141e" if index == COLORED else "" for index in range(len(shapes.CLASS_NAMES))]
    assert [*Split.read(run_dir / "shards", "val").class_colors] == expected
    assert json.loads((run_dir / "run" / "model.json").read_text())["class_colors"] == expected
    drawn = {}
    for path in (run_dir / "run" / "val").glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag.startswith("predictions/"):
                    picture = tf.io.decode_png(tf.make_ndarray(value.tensor)[2]).numpy()
                    drawn[value.tag.removeprefix("predictions/")] = (picture == COLOR).all(-1).any()
    pairs = voc.pairs(shapes_dir, "val")
    assert drawn.keys() == {pair.name for pair in pairs}
    holding = [pair.name for pair in pairs if (np.array(Image.open(pair.mask)) == COLORED).any()]
    assert 0 < len(holding) < 5
    assert all(drawn[name] for name in holding)


def test_runs_are_compared_by_their_hyperparameters(run_dir):
    rows = []
    for path in (run_dir / "run").glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    rows.append(metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content))
    assert rows[0].hparams["backbone"].string_value == "tiny"
    assert rows[0].hparams["learning_rate"].number_value == 0.05
    assert rows[0].hparams["others"].string_value == "--deterministic --batch_norm_momentum=0.8"


def test_log_lines_are_plain_and_show_progress(run_dir):
    text = (run_dir / "stderr").read_text()
    assert "\r" not in text
    assert re.search(rf" step {STEPS}/{STEPS}  loss \d+\.\d+  mIoU .* img/s  ETA 0s\n", text)
    assert re.search(r" validation at step 9: loss \d+\.\d+  mIoU .* \(best .*\)  \d+s\n", text)


def test_start_up_notes_of_tensorflow_are_left_out(run_dir):
    """Errors, such as a missing GPU driver, are passed on."""
    lines = (run_dir / "stderr").read_text().splitlines()
    assert not [line for line in lines if re.match(r"I\d{4} |WARNING: All log messages", line)]


def test_same_seed_gives_the_same_bits_even_after_a_signal(run_dir):
    """A run that gets SIGTERM in the middle of an epoch and is restarted, against an uninterrupted run."""
    command = ("train.py", f"--tfrecord_dir={run_dir}/shards", f"--model_dir={run_dir}/interrupted", *TRAIN_FLAGS)
    stopped = run(*command, stop_at=(f"step 4/{STEPS}", signal.SIGTERM), expect=75)
    stopped_after = int(re.search(r"SIGTERM: stopped after step (\d+),", stopped.stderr.splitlines()[-1]).group(1))
    assert 4 <= stopped_after < STEPS
    assert f"at step {stopped_after}" in run(*command).stderr
    whole, resumed = (variables_of(run_dir / name, f"latest/ckpt-{STEPS}") for name in ("run", "interrupted"))
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        if not key.startswith("save_counter"):  # the interrupted run saved once more
            np.testing.assert_array_equal(resumed[key], value, err_msg=key)
    losses = [
        {record["step"]: record["loss"] for record in records_of(run_dir / name) if record["split"] == "train"}
        for name in ("run", "interrupted")
    ]
    assert losses[0] == losses[1]


def test_a_finished_run_says_so_and_another_model_is_rejected(run_dir, shapes_dir, tmp_path):
    shutil.copytree(run_dir / "run", tmp_path / "run")
    flags = [f"--tfrecord_dir={run_dir}/shards", f"--model_dir={tmp_path}/run", *TRAIN_FLAGS]
    done = run("train.py", *flags)
    assert f"{STEPS} of {STEPS} steps are done; to go on" in done.stderr
    assert re.findall(r"changed since the last start: (.*)", done.stderr) == [
        f"--class_names={run_dir}/classes.txt -> not set",
        f"--model_dir={run_dir}/run -> --model_dir={tmp_path}/run",
        f"--voc_dir={shapes_dir} -> not set",
    ]
    other_model = run("train.py", *flags, "--output_stride=8", expect=2)
    assert_one_line(other_model, r"^train\.py: --model_dir=.*output_stride 16, these flags say 8")


def test_a_run_continues_with_other_replicas_and_another_batch_size_and_says_so(run_dir):
    """It continues at the example where it stopped, after 9 batches of 4."""
    shutil.copytree(run_dir / "run", run_dir / "other_replicas")
    done = run(
        "train.py",
        f"--tfrecord_dir={run_dir}/shards",
        f"--model_dir={run_dir}/other_replicas",
        *TRAIN_FLAGS,
        "--num_cpu_replicas=1",
        "--global_batch_size=2",
        f"--train_steps={STEPS + 1}",
    )
    assert "replicas: 1 instead of 2" in done.stderr
    assert "changed since the last start: --global_batch_size=4 -> --global_batch_size=2" in done.stderr
    state = variables_of(run_dir / "other_replicas", f"latest/ckpt-{STEPS + 1}")
    (examples,) = [value for name, value in state.items() if name.startswith("state/examples/")]
    assert examples == 4 * STEPS + 2


def test_a_signal_before_the_first_step_ends_in_one_line(run_dir):
    """While weights load, shards are written and the model is built, there is nothing to save, and no files remain."""
    flags = [f"--tfrecord_dir={run_dir}/shards", f"--model_dir={run_dir}/unborn", *TRAIN_FLAGS]
    done = run("train.py", *flags, stop_at=("2 CPU replicas", signal.SIGUSR1), expect=75)
    assert done.stderr.endswith("\ntrain.py: SIGUSR1: stopped with nothing to save; run the same command again\n")
    assert "Traceback" not in done.stderr
    assert not set(run_dir.glob("unborn/*")) - {run_dir / "unborn" / ".lock"}


def test_a_run_starts_from_another_runs_weights_and_names_those_that_do_not_fit(
    run_dir, tiny_backbone, tiny_voc, tmp_path
):
    """Three classes instead of 21, at another stride, with batch normalisation frozen, as in a second stage."""
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    flags = [f"--voc_dir={tiny_voc}", f"--class_names={tmp_path}/names.txt", f"--tfrecord_dir={tmp_path}/shards"]
    flags += ["--val_split=", f"--init_checkpoint={run_dir}/run", *TRAIN_FLAGS, "--train_steps=1"]
    flags += ["--freeze_batch_norm", "--output_stride=8", "--learning_rate=0", "--weight_decay=0"]
    done = run("train.py", *flags, f"--model_dir={tmp_path}/run")
    left_out = re.findall(r"of another shape, and so random: (\S+)", done.stderr)
    assert left_out == []
    assert "classes: new, and so random: a, b, c; gone: background" in done.stderr
    first = load_model(run_dir / "run")[0]
    second, config, _ = load_model(tmp_path / "run")
    assert config.output_stride == 8
    for old, new in zip(first.weights, second.weights, strict=True):
        if not old.path.startswith("logits"):
            np.testing.assert_array_equal(new, old, err_msg=old.path)
    nothing = run("train.py", *flags, f"--model_dir={tmp_path}/other", f"--init_checkpoint={tmp_path}", expect=1)
    assert_one_line(nothing, r"model\.json: no such file")


def test_training_on_real_voc_images(voc_sample, tmp_path):
    """ResNet-50 takes two steps on real images, with the textbook's settings except for sizes."""
    command = [
        *(sys.executable, "train.py"),
        "--flagfile=configs/voc_textbook.flags",
        f"--voc_dir={voc_sample}",
        f"--tfrecord_dir={tmp_path}/shards",
        f"--model_dir={tmp_path}/run",
        "--backbone_weights=none",
        "--val_split=val_half",
        "--crop_size=96",
        "--resize_size=111",
        "--global_batch_size=2",
        "--epochs=0",
        "--train_steps=2",
        "--num_gpus=0",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS, check=True)
    assert "6 images in" in done.stderr  # five of train, one of the two of val
    assert Split.read(tmp_path / "shards", "train").num_examples == 5
