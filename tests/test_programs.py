"""The programs as users start them: train, resume, score, predict, and every mistake in one line."""

import json
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_mask
from PIL import Image
from tensorboard.plugins.hparams import metadata

from deeplab.data.shards.split import Split
from deeplab.data.source import shapes, voc
from deeplab.labels import palette
from deeplab.run.run_folder import load_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STEPS = 9
TRAIN_FLAGS = (
    "--backbone=mobilenet_v2",
    "--backbone_weights=none",
    "--crop_size=65",
    "--global_batch_size=4",
    f"--train_steps={STEPS}",
    "--learning_rate=0.05",
    "--batch_norm_momentum=0.8",
    "--loss=cross_entropy_dice",
    "--log_every_steps=1",
    "--eval_every_epochs=1",
    "--num_gpus=0",
    "--num_cpu_replicas=2",
    "--deterministic",
)


def _command(*arguments):
    return [sys.executable, *map(str, arguments)]


def _run(*arguments, expect=0):
    done = subprocess.run(_command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == expect, done.stderr[-3000:]
    return done


def _assert_one_line(done, pattern):
    """The reason is the last line, and nothing looks like a crash of the program."""
    assert "Traceback" not in done.stderr
    assert re.search(pattern, done.stderr.splitlines()[-1]), done.stderr[-1000:]


def _variables(model_dir, name):
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / name))
    return {
        key: reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


@pytest.fixture(scope="module")
def run_dir(shapes_dir, tmp_path_factory):
    """A folder with a finished run in `run/`, its shards in `shards/`, and the program's output in `stderr`."""
    folder = tmp_path_factory.mktemp("programs")
    done = _run(
        "train.py",
        f"--voc_dir={shapes_dir}",
        f"--tfrecord_dir={folder}/shards",
        f"--model_dir={folder}/run",
        *TRAIN_FLAGS,
    )
    (folder / "stderr").write_text(done.stderr)
    return folder


def _records(model_dir):
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def test_training_leaves_the_promised_files(run_dir):
    records = _records(run_dir / "run")
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
    size = f"; 10 images per epoch, {len(shapes.CLASS_NAMES)} classes; {STEPS} steps of 4 images"
    assert size in (run_dir / "stderr").read_text()
    assert start["command"][0] == "train.py"
    assert start["versions"]["tensorflow"] == tf.__version__
    assert "--global_batch_size=4" in (run_dir / "run" / "flags.txt").read_text()


def test_tensorboard_has_the_same_numbers(run_dir):
    records = {record["step"]: record for record in _records(run_dir / "run") if record["split"] == "val"}
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


def test_runs_are_compared_by_their_hyperparameters(run_dir):
    rows = []
    for path in (run_dir / "run").glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    rows.append(metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content))
    assert rows[0].hparams["backbone"].string_value == "mobilenet_v2"
    assert rows[0].hparams["learning_rate"].number_value == 0.05
    assert rows[0].hparams["others"].string_value == "--deterministic --batch_norm_momentum=0.8"


def test_log_lines_are_plain_and_show_progress(run_dir):
    text = (run_dir / "stderr").read_text()
    assert "\r" not in text
    assert re.search(rf"step {STEPS}/{STEPS}  epoch 3\.60  loss \d\.\d+  mIoU .* img/s  ETA 0s", text)
    assert re.search(r"validation at step 9: .* 5 images", text)


@pytest.fixture(scope="module")
def scored(run_dir):
    """eval.py on one device, with pictures, for the last checkpoint; the run itself scored it on two devices."""
    checkpoint = run_dir / "run" / "checkpoints" / "latest" / f"ckpt-{STEPS}"
    output_dir = run_dir / "scored"
    done = _run(
        "eval.py",
        f"--model_dir={run_dir}/run",
        f"--tfrecord_dir={run_dir}/shards",
        f"--checkpoint={checkpoint}",
        f"--output_dir={output_dir}",
        f"--report={output_dir}",
        "--num_gpus=0",
        "--eval_batch_size=3",
    )
    return output_dir, done.stdout


def test_eval_equals_what_training_measured(run_dir, scored):
    output_dir, stdout = scored
    metrics = json.loads((output_dir / "metrics.json").read_text())
    logged = _records(run_dir / "run")[-1]
    assert (metrics["step"], metrics["split"], metrics["num_images"]) == (STEPS, "val", 5)
    for name in ("mean_iou", "mean_accuracy", "pixel_accuracy"):
        assert metrics[name] == pytest.approx(logged[name], abs=1e-4)  # rounding may change single pixels
    assert metrics["loss"] == pytest.approx(logged["cross_entropy"], rel=1e-4)
    assert f"{100 * metrics['mean_iou']:.2f} %" in stdout


def test_scores_equal_those_of_the_written_masks_at_native_size(shapes_dir, scored):
    output_dir, _ = scored
    metrics = json.loads((output_dir / "metrics.json").read_text())
    truth, predicted = [], []
    for pair in voc.pairs(shapes_dir, "val"):
        truth.append(np.array(Image.open(pair.mask)))
        predicted.append(np.array(Image.open(output_dir / "masks" / f"{pair.name}.png")))
        assert predicted[-1].shape == truth[-1].shape
        with Image.open(output_dir / "side_by_side" / f"{pair.name}.png") as row:
            assert row.width == 4 * truth[-1].shape[1] + 12  # image | truth | prediction | errors, and three gaps
    truth, predicted = (np.concatenate([mask.ravel() for mask in masks]) for masks in (truth, predicted))
    truth, predicted = truth[truth != 255], predicted[truth != 255]
    for index, name in enumerate(shapes.CLASS_NAMES):
        union = ((truth == index) | (predicted == index)).sum()
        expected = ((truth == index) & (predicted == index)).sum() / union if union else None
        assert metrics["per_class_iou"][name] == (None if expected is None else pytest.approx(expected))
    assert metrics["pixel_accuracy"] == pytest.approx((truth == predicted).mean())


def test_report_shows_what_was_measured(scored):
    output_dir, _ = scored
    page = (output_dir / "report.html").read_text()
    metrics = json.loads((output_dir / "metrics.json").read_text())
    assert f"<b>{100 * metrics['mean_iou']:.1f} %</b>mean IoU" in page
    assert page.count("<figure>") == 5  # all of them, once each
    assert page.count("<svg") == 3
    assert f"<dd>10 images per epoch, {len(shapes.CLASS_NAMES)} classes</dd>" in page


def test_start_up_notes_of_tensorflow_are_left_out(run_dir):
    """Errors, such as a missing GPU driver, are passed on."""
    lines = (run_dir / "stderr").read_text().splitlines()
    assert not [line for line in lines if re.match(r"I\d{4} |WARNING: All log messages", line)]


def test_eval_uses_the_best_checkpoint_by_default(run_dir):
    _run("eval.py", f"--model_dir={run_dir}/run", f"--tfrecord_dir={run_dir}/shards", "--num_gpus=0")
    metrics = json.loads((run_dir / "run" / "eval" / "val" / "metrics.json").read_text())
    best = max(
        (record for record in _records(run_dir / "run") if record["split"] == "val"), key=lambda r: r["mean_iou"]
    )
    assert metrics["step"] == best["step"]


def test_same_seed_gives_the_same_bits_even_after_a_signal(run_dir):
    """A run that gets SIGTERM in the middle of an epoch and is restarted, against an uninterrupted run."""
    command = _command(
        "train.py", f"--tfrecord_dir={run_dir}/shards", f"--model_dir={run_dir}/interrupted", *TRAIN_FLAGS
    )
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "step 4/9" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    stopped_after = int(re.search(r"SIGTERM: stopped after step (\d+),", lines[-1]).group(1))
    assert 4 <= stopped_after < STEPS
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"at step {stopped_after}" in done.stderr
    whole, resumed = (_variables(run_dir / name, f"latest/ckpt-{STEPS}") for name in ("run", "interrupted"))
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        if not key.startswith("save_counter"):  # the interrupted run saved once more
            np.testing.assert_array_equal(resumed[key], value, err_msg=key)
    losses = [
        {record["step"]: record["loss"] for record in _records(run_dir / name) if record["split"] == "train"}
        for name in ("run", "interrupted")
    ]
    assert losses[0] == losses[1]


def test_a_finished_run_says_so_and_another_model_is_rejected(run_dir, shapes_dir):
    flags = [f"--tfrecord_dir={run_dir}/shards", f"--model_dir={run_dir}/run", *TRAIN_FLAGS]
    done = _run("train.py", *flags)
    assert f"this run has completed {STEPS} of {STEPS} steps" in done.stderr
    assert re.findall(r"changed since the last start: (.*)", done.stderr) == [f"--voc_dir={shapes_dir} -> not set"]
    other_model = _run("train.py", *flags, "--output_stride=8", expect=2)
    _assert_one_line(other_model, r"^train\.py: --model_dir=.*output_stride 16, these flags say 8")


def test_a_run_continues_with_other_replicas_and_another_batch_size_and_says_so(run_dir):
    """It continues at the example where it stopped, after 9 batches of 4."""
    shutil.copytree(run_dir / "run", run_dir / "other_replicas")
    done = _run(
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
    state = _variables(run_dir / "other_replicas", f"latest/ckpt-{STEPS + 1}")
    (examples,) = [value for name, value in state.items() if name.startswith("state/examples/")]
    assert examples == 4 * STEPS + 2


def test_a_signal_before_the_first_step_ends_in_one_line(run_dir):
    """While weights load, shards are written and the model is built, there is nothing to save, and no files remain."""
    flags = [f"--tfrecord_dir={run_dir}/shards", f"--model_dir={run_dir}/unborn", *TRAIN_FLAGS]
    process = subprocess.Popen(_command("train.py", *flags), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "2 CPU replicas" in line:
            process.send_signal(signal.SIGUSR1)
    assert process.wait() == 75
    assert lines[-1] == "train.py: SIGUSR1: stopped with nothing to save; run the same command again\n"
    assert "Traceback" not in "".join(lines)
    assert not set(run_dir.glob("unborn/*")) - {run_dir / "unborn" / ".lock"}


def test_a_flipped_bit_in_a_shard_is_reported(run_dir, tmp_path):
    shutil.copytree(run_dir / "shards", tmp_path / "shards")
    shard = max((tmp_path / "shards").glob("val*.tfrecord"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 16
    shard.write_bytes(content)
    flags = [f"--model_dir={run_dir}/run", f"--tfrecord_dir={tmp_path}/shards", f"--output_dir={tmp_path}"]
    damaged = rf"^eval\.py: .*{shard.name}: damaged at record \d; delete val.json and this file"
    _assert_one_line(_run("eval.py", *flags, expect=1), damaged)
    _assert_one_line(_run("eval.py", *flags, "--verify", expect=1), f"SHA-256 mismatch: {shard.name}; delete")
    assert not (tmp_path / "metrics.json").exists()


def test_a_run_starts_from_another_runs_weights_and_names_those_that_do_not_fit(run_dir, tiny_voc, tmp_path):
    """Three classes instead of 21, at another stride, with batch normalisation frozen, as in a second stage."""
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    flags = [f"--voc_dir={tiny_voc}", f"--class_names={tmp_path}/names.txt", f"--tfrecord_dir={tmp_path}/shards"]
    flags += ["--val_split=", f"--init_checkpoint={run_dir}/run", *TRAIN_FLAGS, "--train_steps=1"]
    flags += ["--freeze_batch_norm", "--output_stride=8", "--learning_rate=0", "--weight_decay=0"]
    done = _run("train.py", *flags, f"--model_dir={tmp_path}/run")
    left_out = re.findall(r"of another shape, and so random: (\S+)", done.stderr)
    assert left_out == []
    assert "classes: new, and so random: a, b, c; gone: background" in done.stderr
    first = load_model(run_dir / "run")[0]
    second, config, _ = load_model(tmp_path / "run")
    assert config.output_stride == 8
    for old, new in zip(first.weights, second.weights, strict=True):
        if not old.path.startswith("logits"):
            np.testing.assert_array_equal(new, old, err_msg=old.path)
    nothing = _run("train.py", *flags, f"--model_dir={tmp_path}/other", f"--init_checkpoint={tmp_path}", expect=1)
    _assert_one_line(nothing, r"model\.json: no such file")


def test_eval_at_another_stride(run_dir):
    flags = [f"--model_dir={run_dir}/run", f"--tfrecord_dir={run_dir}/shards", f"--output_dir={run_dir}/stride8"]
    _run("eval.py", *flags, "--output_stride=8", "--num_gpus=0")
    metrics = json.loads((run_dir / "stride8" / "metrics.json").read_text())
    assert metrics["num_images"] == 5
    stride16 = {record["step"]: record for record in _records(run_dir / "run") if record["split"] == "val"}
    assert metrics["loss"] != pytest.approx(stride16[metrics["step"]]["cross_entropy"], rel=1e-4)


def test_predict_segments_a_folder_and_a_pattern(run_dir, shapes_dir, tmp_path):
    """Also next to the truth; a file that is not a picture is named at the end, and the others are segmented."""
    names = voc.read_split(shapes_dir, "val")[:3]
    for name, folder in zip(names, ("folder", "folder", "pattern"), strict=True):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(shapes_dir / "JPEGImages" / f"{name}.jpg", tmp_path / folder)
    (tmp_path / "folder" / "text.jpg").write_text("no picture")
    (tmp_path / "folder" / "notes.txt").write_text("left alone")
    places = [f"--model_dir={run_dir}/run", f"--output_dir={tmp_path}/predicted"]
    places.append(f"--truth_dir={shapes_dir}/SegmentationClass")
    arguments = (tmp_path / "folder", f"{tmp_path}/pattern/*.jp*g")
    done = _run("-m", "deeplab.predict", *places, *arguments, expect=1)
    _assert_one_line(done, r"text\.jpg: cannot be read as an image: .*; 1 of 4 images left out$")
    for name in names:
        with Image.open(shapes_dir / "JPEGImages" / f"{name}.jpg") as image:
            width, height = image.size
        pictures = {
            folder: Image.open(tmp_path / "predicted" / folder / f"{name}.png")
            for folder in ("masks", "coloured", "overlays", "side_by_side")
        }
        mask = np.array(pictures["masks"])
        assert (pictures["masks"].mode, mask.shape) == ("P", (height, width))
        np.testing.assert_array_equal(np.array(pictures["coloured"]), palette()[mask])
        assert pictures["overlays"].height > height  # the legend
        assert pictures["side_by_side"].width == 4 * width + 12
        shares = re.search(rf"{name}\.jpg: (.*)", done.stderr).group(1)
        background = 100 * (mask == 0).mean()
        assert f"background {background:.1f}%" in shares or background == 0


def test_predict_reads_standard_input(run_dir, shapes_dir, tmp_path):
    name = voc.read_split(shapes_dir, "val")[0]
    command = _command("-m", "deeplab.predict", f"--model_dir={run_dir}/run", f"--output_dir={tmp_path}", "-")
    with (shapes_dir / "JPEGImages" / f"{name}.jpg").open("rb") as picture:
        subprocess.run(command, cwd=ROOT, stdin=picture, check=True, timeout=900)
    with Image.open(tmp_path / "masks" / "stdin.png") as mask:
        assert mask.mode == "P"


def test_predict_writes_the_evaluation_servers_format(run_dir, shapes_dir, tmp_path):
    """Index PNGs under the devkit's names (VOCinit.m: clsrespath), for images without masks."""
    voc_dir = tmp_path / "VOC2012"
    shutil.copytree(shapes_dir / "JPEGImages", voc_dir / "JPEGImages")
    names = voc.read_split(shapes_dir, "val")[:2]
    (voc_dir / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc_dir / "ImageSets" / "Segmentation" / "test.txt").write_text("\n".join(names))
    output_dir = tmp_path / "submission"
    _run("-m", "deeplab.predict", f"--model_dir={run_dir}/run", f"--output_dir={output_dir}", f"--voc_dir={voc_dir}")
    written = {path.relative_to(output_dir).as_posix() for path in output_dir.rglob("*") if path.is_file()}
    assert written == {f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in names}
    for name in names:
        with Image.open(output_dir / f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == Image.open(voc_dir / "JPEGImages" / f"{name}.jpg").size
            assert np.array(mask).max() < len(shapes.CLASS_NAMES)


def test_predict_rejects_files_that_are_not_images(run_dir, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    done = _run(
        "-m",
        "deeplab.predict",
        f"--model_dir={run_dir}/run",
        f"--output_dir={tmp_path}",
        tmp_path / "text.jpg",
        expect=1,
    )
    _assert_one_line(done, r"text\.jpg: cannot be read as an image")
    assert [path.name for path in tmp_path.iterdir()] == ["text.jpg"]
    assert done.stderr.count("cannot be read") == 1
    assert "segmenting" not in done.stderr


def test_training_on_real_voc_images(voc_sample, tmp_path):
    """ResNet-50 takes two steps on real images, with the textbook's settings except for sizes."""
    done = _run(
        "train.py",
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
    )
    assert "6 images in" in done.stderr  # five of train, one of the two of val
    assert Split.read(tmp_path / "shards", "train").num_examples == 5


MISTAKES = {
    # name: (flags after those of a good run, exit status, last line)
    "unknown flag": (["--bach_size=3"], 2, "Unknown command line flag 'bach_size'"),
    "mistyped flag": (["--learning_rat=3"], 2, "'learning_rat'. Did you mean: learning_rate"),
    "profiled steps": (["--profile_steps=9,3"], 2, "--profile_steps=9,3: a first and a last step"),
    "value of a wrong kind": (["--crop_size=many"], 2, "--crop_size=many"),
    "value out of range": (["--hue=2"], 2, "--hue=2"),
    "stray argument": (["VOC2012"], 2, "unexpected argument 'VOC2012'"),
    "both lengths": (["--epochs=2"], 2, "--train_steps and --epochs"),
    "too many GPUs": (["--num_gpus=99", "--num_cpu_replicas=1"], 2, "--num_gpus=99: TensorFlow sees"),
    "batch that does not divide": (["--global_batch_size=5"], 2, "--global_batch_size=5.*use 4 or 6"),
    "no such split": (["--train_split=trian"], 1, r"trian.txt: no such split; found: train, val"),
    "no such weights": (["--backbone_weights=/nowhere.h5"], 1, "--backbone_weights=/nowhere.h5"),
    "no such class names": (["--class_names=/nowhere.txt"], 1, "/nowhere.txt: no such file"),
    "no such VOC folder": (["--voc_dir=/nowhere"], 1, "no such split; no list files in /nowhere"),
    "RGB mask": ("rgb", 1, r"a\.png: contains colours.*`NAME: #000000`"),
    "label without a class": ("label", 1, r"a\.png: label 21, but there are 21 classes"),
    "masks of 0 and 255": ("255", 1, "the masks hold only 0 and 255.*`background: 0` and `NAME: 255`"),
    "mask of another size": ("size", 1, r"a\.png: 30x19 pixels, its image a\.jpg is 30x20"),
    "missing mask": ("no mask", 1, r"a\.png: missing"),
    "missing image": ("no image", 1, r"a\.jpg: missing"),
    "unreadable JPEG": ("jpeg", 1, r"a\.jpg: cannot be read as an image"),
    "unreadable PNG": ("png", 1, r"a\.png: cannot be read as an image"),
}


def _damage(voc_dir, kind):
    image, mask = voc_dir / "JPEGImages" / "a.jpg", voc_dir / "SegmentationClass" / "a.png"
    if kind == "rgb":
        Image.new("RGB", (30, 20)).save(mask)
    elif kind == "label":
        write_mask(mask, np.full((20, 30), 21))
    elif kind == "255":
        for each in mask.parent.iterdir():
            write_mask(each, np.repeat([[0, 255]], 20, 0).repeat(15, 1))
    elif kind == "size":
        write_mask(mask, np.zeros((19, 30)))
    elif kind == "no mask":
        mask.unlink()
    elif kind == "no image":
        image.unlink()
    elif kind == "jpeg":
        image.write_bytes(image.read_bytes()[:200])
    else:
        mask.write_bytes(mask.read_bytes()[:60])


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Every mistake, run two at a time; name -> the finished process."""

    def make(name):
        folder = tmp_path_factory.mktemp("mistake")
        for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (folder / "voc" / part).mkdir(parents=True)
        for image in "ab":
            Image.new("RGB", (30, 20), "teal").save(folder / "voc" / "JPEGImages" / f"{image}.jpg")
            write_mask(folder / "voc" / "SegmentationClass" / f"{image}.png", np.repeat([[0, 2]], 20, 0).repeat(15, 1))
        for split in ("train", "val"):
            (folder / "voc" / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("a\nb\n")
        flags, status, _ = MISTAKES[name]
        if isinstance(flags, str):
            _damage(folder / "voc", flags)
            flags = []
        places = (f"--voc_dir={folder}/voc", f"--tfrecord_dir={folder}/shards", f"--model_dir={folder}/run")
        done = _run("train.py", *places, *TRAIN_FLAGS, *flags, expect=status)
        assert not set(folder.glob("run/*")) - {folder / "run" / ".lock"}  # the next attempt may use another model
        return done

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MISTAKES, pool.map(make, MISTAKES), strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_line_and_a_status(mistakes, name):
    _assert_one_line(mistakes[name], f"^train.py: .*{MISTAKES[name][2]}")


def test_eval_rejects_other_classes_and_empty_runs(run_dir, tiny_voc, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    _run(
        "train.py",
        "--prepare_only",
        "--val_split=",
        f"--voc_dir={tiny_voc}",
        f"--class_names={tmp_path}/names.txt",
        f"--tfrecord_dir={tmp_path}/shards",
    )
    flags = [f"--tfrecord_dir={tmp_path}/shards", "--split=train"]
    other = _run("eval.py", f"--model_dir={run_dir}/run", *flags, expect=2)
    _assert_one_line(other, r"^eval\.py: --tfrecord_dir=.*its classes are not those of the model")
    empty = _run("eval.py", f"--model_dir={tmp_path}", *flags, expect=1)
    _assert_one_line(empty, r"model\.json: no such file; is this the folder of a run")


@pytest.mark.parametrize("program", [["train.py"], ["eval.py"], ["-m", "deeplab.predict"]])
def test_help_is_not_an_error(program):
    assert re.search(r"^  --model_dir\n +Folder of the run", _run(*program, "--help").stdout, re.MULTILINE)
