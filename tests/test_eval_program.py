"""eval.py as users start it: its scores are those of training and of its masks; what it refuses."""

import json
import re
import shutil

import numpy as np
import pytest
from forked import run
from PIL import Image
from small_run import COLOR, COLORED, STEPS, assert_one_line, records_of

from deeplab.data.source import shapes, voc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scored(run_dir):
    """eval.py on one device, with pictures, for the last checkpoint; the run itself scored it on two devices."""
    checkpoint = run_dir / "run" / "checkpoints" / "latest" / f"ckpt-{STEPS}"
    output_dir = run_dir / "scored"
    done = run(
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
    logged = records_of(run_dir / "run")[-1]
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
            width = truth[-1].shape[1]
            assert row.width == 4 * width + 12  # image | truth | prediction | errors, and three gaps
            for mask, left in ((truth[-1], width + 4), (predicted[-1], 2 * (width + 4))):
                drawn = np.array(row)[19 : 19 + len(mask), left : left + width]  # below the heading
                np.testing.assert_array_equal((drawn == COLOR).all(-1), mask == COLORED)
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
    assert page.count('"photo":"report_images/') == 5
    assert len(list((output_dir / "report_images").glob("*.jpg"))) == 5
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert data["colors"][COLORED] == [*COLOR]
    assert "rgb(10,20,30)" in page  # beside the name
    assert page.count("<svg") == 5  # mean IoU, loss, cross-entropy, learning rate, calibration
    assert f"<dd>10 images per epoch, {len(shapes.CLASS_NAMES)} classes</dd>" in page


def test_eval_uses_the_best_checkpoint_by_default(run_dir):
    run("eval.py", f"--model_dir={run_dir}/run", f"--tfrecord_dir={run_dir}/shards", "--num_gpus=0")
    metrics = json.loads((run_dir / "run" / "eval" / "val" / "metrics.json").read_text())
    best = max(
        (record for record in records_of(run_dir / "run") if record["split"] == "val"), key=lambda r: r["mean_iou"]
    )
    assert metrics["step"] == best["step"]


def test_a_flipped_bit_in_a_shard_is_reported(run_dir, tmp_path):
    shutil.copytree(run_dir / "shards", tmp_path / "shards")
    shard = max((tmp_path / "shards").glob("val*.tfrecord"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 16
    shard.write_bytes(content)
    flags = [f"--model_dir={run_dir}/run", f"--tfrecord_dir={tmp_path}/shards", f"--output_dir={tmp_path}"]
    damaged = rf"^eval\.py: .*{shard.name}: damaged at record \d; delete val.json and this file"
    assert_one_line(run("eval.py", *flags, expect=1), damaged)
    assert_one_line(run("eval.py", *flags, "--verify", expect=1), f"SHA-256 mismatch: {shard.name}; delete")
    assert not (tmp_path / "metrics.json").exists()


def test_eval_at_another_stride(run_dir):
    flags = [f"--model_dir={run_dir}/run", f"--tfrecord_dir={run_dir}/shards", f"--output_dir={run_dir}/stride8"]
    run("eval.py", *flags, "--output_stride=8", "--num_gpus=0")
    metrics = json.loads((run_dir / "stride8" / "metrics.json").read_text())
    assert metrics["num_images"] == 5
    stride16 = {record["step"]: record for record in records_of(run_dir / "run") if record["split"] == "val"}
    assert metrics["loss"] != pytest.approx(stride16[metrics["step"]]["cross_entropy"], rel=1e-4)


def test_eval_rejects_other_classes_and_empty_runs(run_dir, tiny_voc, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    run(
        "train.py",
        "--prepare_only",
        "--val_split=",
        f"--voc_dir={tiny_voc}",
        f"--class_names={tmp_path}/names.txt",
        f"--tfrecord_dir={tmp_path}/shards",
    )
    flags = [f"--tfrecord_dir={tmp_path}/shards", "--split=train"]
    other = run("eval.py", f"--model_dir={run_dir}/run", *flags, expect=2)
    assert_one_line(other, r"^eval\.py: --tfrecord_dir=.*its classes are not those of the model")
    empty = run("eval.py", f"--model_dir={tmp_path}", *flags, expect=1)
    assert_one_line(empty, r"model\.json: no such file; is this the folder of a run")
