"""Every flag of the programs, once; and whether they fit each other."""

import logging
import sys
from pathlib import Path

import deeplab.quiet  # noqa: F401

# isort: split
import tensorflow as tf
from absl import flags

from deeplab.data import voc
from deeplab.distribution import PRECISIONS, STRATEGIES, check_batch_size
from deeplab.errors import EXIT_STATUSES, UsageError
from deeplab.model.backbone import BACKBONES, BATCH_NORM_MOMENTUM, OUTPUT_STRIDES
from deeplab.model.deeplabv3 import BATCH_NORM_EPSILON
from deeplab.model.inference import Inference
from deeplab.training.losses import LOSSES
from deeplab.training.schedules import OPTIMIZERS, SCHEDULES

FLAGS = flags.FLAGS
logger = logging.getLogger("deeplab")

HYPERPARAMETERS = (
    "backbone",
    "backbone_weights",
    "output_stride",
    "crop_size",
    "global_batch_size",
    "train_steps",
    "epochs",
    "optimizer",
    "learning_rate",
    "schedule",
    "weight_decay",
    "loss",
    "class_weights",
    "freeze_batch_norm",
    "precision",
    "seed",
)
"""Columns of TensorBoard's page "HParams"."""

_NO_HYPERPARAMETERS = (
    *("voc_dir", "voc_url", "download", "class_names", "mask_dir", "model_dir", "tfrecord_dir", "verify"),
    *("num_shards", "prepare_only", "num_gpus", "num_cpu_replicas", "strategy", "steps_per_call", "profile_steps"),
    *("log_every_steps", "eval_batch_size", "eval_every_epochs", "checkpoint_steps", "checkpoint_minutes"),
    *("keep_checkpoints", "max_bad_examples"),
)
"""Where things are, and what does not change what is learnt."""


def define_train_flags() -> None:
    """The flags of train.py."""
    _define_common_flags()
    _define_data_flags()
    _define_model_flags()
    _define_optimization_flags()
    _define_run_flags()


def _define_data_flags() -> None:
    flags.DEFINE_string("voc_dir", None, "Folder in VOC layout (VOCdevkit/VOC2012); shards are written from it.")
    flags.DEFINE_bool("download", False, "Fetch PASCAL VOC 2012 to --voc_dir (2 GB) unless that folder exists.")
    flags.DEFINE_string("voc_url", voc.ARCHIVE_URL, "Where --download fetches the archive: a mirror of the original.")
    flags.DEFINE_string("class_names", None, "Text file of class names, one a line, class 0 first. Default: VOC's 21.")
    flags.DEFINE_string(
        "mask_dir",
        None,
        "Folder of index masks of --train_split, if they are not in VOC_DIR/SegmentationClass; for trainaug.",
    )
    flags.DEFINE_string("train_split", "train", "Split to train on: a list in ImageSets/Segmentation.")
    flags.DEFINE_string("val_split", "val", "Split to evaluate on while training; empty for none.")
    flags.DEFINE_integer("num_shards", 16, "Shard files per split, when they are written.", lower_bound=1)
    flags.DEFINE_integer(
        "max_bad_examples",
        0,
        "Bad images or masks of a split that are left out when its shards are written, and named in "
        "SPLIT.bad_examples.txt; one more is an error.",
        0,
    )
    flags.DEFINE_bool("prepare_only", False, "Write the shards (and download) and stop; needs no --model_dir.")
    flags.DEFINE_integer("crop_size", 513, "Height and width of training crops, in pixels.", lower_bound=17)
    flags.DEFINE_enum(
        "augmentation",
        "scale_crop",
        ["scale_crop", "resize_or_crop"],
        "scale_crop: random scale, pad, crop (the paper's). resize_or_crop: squash to the crop size, or to "
        "--resize_size and crop, each for half of the images (the textbook's).",
    )
    flags.DEFINE_float("min_scale", 0.5, "Smallest random scale of scale_crop.", lower_bound=0.05)
    flags.DEFINE_float("max_scale", 2.0, "Largest random scale of scale_crop.", lower_bound=0.05)
    flags.DEFINE_integer("resize_size", 444, "Size before cropping of resize_or_crop, in pixels.", lower_bound=17)
    flags.DEFINE_float("hue", 0.1, "Largest hue shift, of 1 (the full circle); 0 for none.", 0.0, 0.5)
    flags.DEFINE_float("brightness", 0.1, "Largest brightness shift, of 1; 0 for none.", 0.0, 1.0)
    flags.DEFINE_float("contrast", 0.2, "Contrast factor is drawn from 1 +- this; 0 for none.", 0.0, 0.99)


def _define_model_flags() -> None:
    flags.DEFINE_enum("backbone", "resnet50", list(BACKBONES), "Keras application under the ASPP head.")
    flags.DEFINE_string(
        "backbone_weights",
        "imagenet",
        "imagenet (fetched by Keras on first use), none (random), or a file of Keras weights without the top.",
    )
    flags.DEFINE_string(
        "init_checkpoint",
        None,
        "Another run's folder (its best checkpoint) or checkpoint to start from; what does not fit is left out.",
    )
    flags.DEFINE_bool("freeze_batch_norm", False, "Keep batch normalisation as it is: statistics, scale and shift.")
    flags.DEFINE_enum(
        "output_stride", "16", [str(stride) for stride in OUTPUT_STRIDES], "Input size over feature size."
    )
    flags.DEFINE_list(
        "multi_grid", "1,1,1", "Dilation factors of the last stage's three units (ResNets); paper: 1,2,4."
    )
    flags.DEFINE_float(
        "batch_norm_momentum",
        BATCH_NORM_MOMENTUM,
        "Share of the moving statistics that a step keeps: 0.9 for runs of a few hundred steps, paper: 0.9997.",
        0.0,
        1.0,
    )
    flags.DEFINE_float("batch_norm_epsilon", BATCH_NORM_EPSILON, "Added to the variance, in the head.", 1e-12)
    flags.DEFINE_list("atrous_rates", "6,12,18", "ASPP rates at output stride 16; doubled at 8, halved at 32.")


def _define_optimization_flags() -> None:
    flags.DEFINE_integer("global_batch_size", 16, "Images per update, over all replicas.", lower_bound=1)
    flags.DEFINE_integer("train_steps", 0, "Updates to make; 0: as --epochs says, else 30000 (the paper's).", 0)
    flags.DEFINE_float("epochs", 0.0, "Passes over the training split, instead of --train_steps; 0: not set.", 0.0)
    flags.DEFINE_enum("optimizer", "sgd", OPTIMIZERS, "Optimizer.")
    flags.DEFINE_integer(
        "accumulate_steps", 1, "Micro-batches that a batch is gone through in, one after the other; saves memory.", 1
    )
    flags.DEFINE_float("learning_rate", 0.007, "Peak learning rate.", lower_bound=0.0)
    flags.DEFINE_integer(
        "scale_learning_rate_from",
        None,
        "Batch size that --learning_rate is meant for: it is multiplied by --global_batch_size over this.",
        1,
    )
    flags.DEFINE_float("clip_norm", 0.0, "Largest norm of the whole gradient of the global batch; 0: any.", 0.0)
    flags.DEFINE_float("momentum", 0.9, "Momentum of sgd.", 0.0, 1.0)
    flags.DEFINE_float("weight_decay", 1e-4, "L2 on kernels (sgd, adam), or decoupled decay (adamw).", lower_bound=0.0)
    flags.DEFINE_enum("schedule", "polynomial", SCHEDULES, "Learning rate over the steps; polynomial has power 0.9.")
    flags.DEFINE_integer("warmup_steps", 0, "Steps of linear warm-up.", lower_bound=0)
    flags.DEFINE_enum("loss", "cross_entropy", LOSSES, "Loss; cross_entropy_dice is the textbook's sum.")
    flags.DEFINE_enum(
        "class_weights",
        "none",
        ["none", "inverse_frequency"],
        "Weights of the cross-entropy by the classes' pixels in the training split.",
    )
    flags.DEFINE_float("label_smoothing", 0.0, "Share of a target spread over all classes.", 0.0, 0.99)
    flags.DEFINE_float("focal_gamma", 0.0, "Focal loss: cross-entropy times (1 - probability) ** this; 0: none.", 0.0)
    flags.DEFINE_float(
        "hard_pixel_fraction",
        1.0,
        "Hard-pixel mining: share of each image's valid pixels that counts, those with the largest cross-entropy.",
        1e-6,
        1.0,
    )
    flags.DEFINE_float(
        "auxiliary_weight", 0.0, "Weight of an auxiliary head's loss, on the last stage but one; 0: no such head.", 0.0
    )
    flags.DEFINE_float(
        "ema_momentum",
        0.0,
        "Share that a moving average of the weights keeps of itself a step, as 0.999; the average is what is scored "
        "and kept as the best. 0: none.",
        0.0,
        0.999999,
    )
    flags.DEFINE_integer("plateau_patience", 0, "Evaluations without a better mIoU that lower the rate; 0: never.", 0)
    flags.DEFINE_float("plateau_factor", 0.5, "By how much a plateau lowers the rate.", 0.0, 1.0)
    flags.DEFINE_integer("early_stopping_patience", 0, "Evaluations without a better mIoU that end it; 0: never.", 0)


def _define_run_flags() -> None:
    # Not 0: with that as TensorFlow's global seed, Dataset.shuffle fails on a seed that is a tensor.
    flags.DEFINE_integer("seed", 1, "Seed of weights, order, augmentation and dropout.", 1, 2**31 - 1)
    flags.DEFINE_bool("deterministic", False, "Same seed, same hardware: same bits. Slower.")
    flags.DEFINE_float("eval_every_epochs", 1.0, "Epochs between evaluations; 0: at the end alone.", lower_bound=0.0)
    flags.DEFINE_integer("checkpoint_steps", 1000, "Steps between checkpoints; also at each evaluation.", 1)
    flags.DEFINE_float("checkpoint_minutes", 10.0, "At most so many minutes between checkpoints, too; 0: any.", 0.0)
    flags.DEFINE_integer("keep_checkpoints", 3, "Latest checkpoints to keep; the best is kept apart.", 1)
    flags.DEFINE_integer("log_every_steps", 20, "Steps between log lines and TensorBoard points.", lower_bound=1)
    flags.DEFINE_list(
        "profile_steps", None, "First and last step to trace with TensorFlow's profiler, as 100,110; few are enough."
    )
    flags.DEFINE_enum(
        "strategy",
        "auto",
        STRATEGIES,
        "Of tf.distribute. auto: multi_worker where TF_CONFIG or srun names several workers, else mirrored.",
    )
    flags.DEFINE_bool("jit_compile", False, "Compile the step by XLA; on GPUs alone.")
    flags.DEFINE_integer("steps_per_call", 1, "Steps per compiled call; 10 or more on fast GPUs.", lower_bound=1)


def _define_common_flags() -> None:
    flags.DEFINE_string("model_dir", None, "Folder of the run: checkpoints, metrics.jsonl, TensorBoard events.")
    flags.DEFINE_string("tfrecord_dir", None, "Folder of the TFRecord shards and their manifests.")
    flags.DEFINE_bool("verify", False, "Check the shards' SHA-256 before they are used; sizes are checked always.")
    flags.DEFINE_integer("num_gpus", None, "GPUs to use; 0 for the CPU. Default: all there are.", lower_bound=0)
    flags.DEFINE_integer("num_cpu_replicas", 1, "Logical devices that the CPU is split into.", lower_bound=1)
    flags.DEFINE_enum("precision", "float32", list(PRECISIONS), "Compute type; variables and logits stay float32.")
    flags.DEFINE_integer("eval_batch_size", None, "Images per evaluation batch. Default: 4 a replica.", lower_bound=1)


def define_eval_flags() -> None:
    """The flags of eval.py; the model's own settings come from --model_dir."""
    _define_common_flags()
    flags.DEFINE_string("split", "val", "Split to score; its shards must stand in --tfrecord_dir.")
    flags.DEFINE_string("checkpoint", None, "Checkpoint to score. Default: the best of --model_dir.")
    _define_inference_flags()
    flags.DEFINE_string("output_dir", None, "Folder for metrics.json, coloured masks and side-by-side pictures.")
    flags.DEFINE_string("report", None, "Folder for report.html: scores, confusions, best and worst images, curves.")


def _define_inference_flags() -> None:
    flags.DEFINE_enum("output_stride", None, [str(s) for s in OUTPUT_STRIDES], "Default: that of training.")
    flags.DEFINE_list("scales", "1.0", "Sizes to average probabilities over; the paper's: 0.5,0.75,1.0,1.25,1.5,1.75.")
    flags.DEFINE_bool("flip", False, "Average over the mirrored image, too.")
    flags.DEFINE_integer(
        "window_size", 0, "Cut larger images into overlapping windows of this many pixels; 0: whole images.", 0
    )
    flags.DEFINE_float("window_overlap", 1 / 3, "Share of a window that the next one covers, too.", 0.0, 0.9)


def define_predict_flags() -> None:
    """The flags of `python -m deeplab.predict`."""
    flags.DEFINE_string("model_dir", None, "Folder of the run whose model predicts.")
    flags.DEFINE_string("checkpoint", None, "Checkpoint to use. Default: the best of --model_dir.")
    flags.DEFINE_string("output_dir", None, "Folder for the pictures.")
    flags.DEFINE_string("truth_dir", None, "Folder of true masks, NAME.png, to show beside the predictions.")
    flags.DEFINE_string(
        "voc_dir", None, "Folder in VOC layout: segment the images of its --split, for VOC's evaluation server."
    )
    flags.DEFINE_string("split", "test", "Split of --voc_dir.")
    flags.DEFINE_integer(
        "batch_size", 8, "Most neighbouring images of one size that are segmented together.", lower_bound=1
    )
    _define_inference_flags()


def define_export_flags() -> None:
    """The flags of `python -m deeplab.export`."""
    flags.DEFINE_string("model_dir", None, "Folder of the run whose model is exported.")
    flags.DEFINE_string("checkpoint", None, "Checkpoint to use. Default: the best of --model_dir.")
    flags.DEFINE_string("export_dir", None, "Folder to write; it must not exist.")
    flags.DEFINE_enum("output_stride", None, [str(s) for s in OUTPUT_STRIDES], "Default: that of training.")
    flags.DEFINE_bool("onnx", False, "Write model.onnx, too.")
    flags.DEFINE_bool("tflite", False, "Write model.tflite and model_dynamic_range.tflite, too.")


def define_sbd_flags() -> None:
    """The flags of `python -m deeplab.data.sbd`."""
    flags.DEFINE_string("sbd_dir", None, "Folder `dataset` of SBD's benchmark_RELEASE; it holds cls/*.mat.")
    flags.DEFINE_string("voc_dir", None, "Folder of VOC 2012: its masks of train, and what is in val.")
    flags.DEFINE_string("mask_dir", None, "Folder to write; it must not exist.")


def define_polygons_flags() -> None:
    """The flags of `python -m deeplab.data.polygons`."""
    flags.DEFINE_string("labelme_dir", None, "Folder of labelme's *.json, beside their images.")
    flags.DEFINE_string("coco_json", None, "COCO instances file: polygons, or run lengths that are not compressed.")
    flags.DEFINE_string("image_dir", None, "Folder of the images that --coco_json names.")
    flags.DEFINE_string("voc_dir", None, "Folder to write, in VOC layout; it must not exist.")
    flags.DEFINE_float("val_share", 0.2, "Share of the images that is put into val, at random.", 0.0, 1.0)


def as_markdown() -> str:
    """The text of flags.md; `python -m deeplab.flags > flags.md` writes it."""
    programs = {
        "train.py": define_train_flags,
        "eval.py": define_eval_flags,
        "python -m deeplab.predict": define_predict_flags,
        "python -m deeplab.export": define_export_flags,
        "python -m deeplab.data.polygons": define_polygons_flags,
        "python -m deeplab.data.sbd": define_sbd_flags,
    }
    lines = [
        "# Flags",
        "",
        "Made by `python -m deeplab.flags > flags.md`. Any flag may stand in a file that `--flagfile` names.",
    ]
    for program, define in programs.items():
        lines += ["", f"## {program}", "", "| flag | default | meaning |", "| --- | --- | --- |"]
        before = set(FLAGS)
        define()
        for name in [name for name in FLAGS if name not in before]:
            flag = FLAGS[name]
            default = "" if flag.default is None else f"`{(flag.default_as_str or '').strip(chr(39))}`"
            lines.append(f"| `--{name}` | {default} | {(flag.help or '').replace('|', chr(92) + '|')} |")
            delattr(FLAGS, name)
    lines += ["", "## Exit status", "", "| status | meaning |", "| --- | --- |"]
    lines += [f"| {status} | {meaning} |" for status, meaning in EXIT_STATUSES.items()]
    return "\n".join(lines) + "\n"


def require(*names: str) -> None:
    """Raises UsageError for a flag that must be given and was not."""
    for name in names:
        if not FLAGS[name].value:
            raise UsageError(f"--{name} is needed")


def check_train_flags() -> None:
    """Raises UsageError for flags of train.py that do not fit each other."""
    require("tfrecord_dir")
    if not FLAGS.prepare_only:
        require("model_dir")
    if not FLAGS.voc_dir and (FLAGS.download or FLAGS.prepare_only):
        raise UsageError(f"--{'download' if FLAGS.download else 'prepare_only'} needs --voc_dir")
    if FLAGS.train_steps and FLAGS.epochs:
        raise UsageError("--train_steps and --epochs: give one of them (0 takes back what a --flagfile sets)")
    if FLAGS.min_scale > FLAGS.max_scale:
        raise UsageError(f"--min_scale={FLAGS.min_scale}: larger than --max_scale={FLAGS.max_scale}")
    if FLAGS.augmentation == "resize_or_crop" and FLAGS.resize_size < FLAGS.crop_size:
        raise UsageError(f"--resize_size={FLAGS.resize_size}: smaller than --crop_size={FLAGS.crop_size}")
    if FLAGS.loss == "dice":
        for name in ("class_weights", "label_smoothing", "focal_gamma", "hard_pixel_fraction"):
            if FLAGS[name].value != FLAGS[name].default:
                raise UsageError(f"--{name}: acts on the cross-entropy, which --loss=dice leaves out")
    if len(positive_integers("multi_grid")) != 3:
        raise UsageError(f"--multi_grid={','.join(FLAGS.multi_grid)}: three numbers are needed, as in 1,2,4")
    positive_integers("atrous_rates")
    profile_steps()


def check_strategy(strategy: tf.distribute.Strategy) -> None:
    """Raises UsageError for flags of train.py that do not fit the replicas."""
    check_batch_size(
        "global_batch_size", FLAGS.global_batch_size, strategy.num_replicas_in_sync, FLAGS.accumulate_steps
    )
    if FLAGS.jit_compile and "GPU" not in strategy.extended.worker_devices[0]:
        raise UsageError("--jit_compile: on GPUs alone; XLA cannot compile this step for the CPU")


def learning_rate() -> float:
    """--learning_rate, scaled to the batch size if --scale_learning_rate_from says so."""
    if not FLAGS.scale_learning_rate_from:
        return FLAGS.learning_rate
    scaled = FLAGS.learning_rate * FLAGS.global_batch_size / FLAGS.scale_learning_rate_from
    logger.info(
        "learning rate %g for batch %d is %g for batch %d",
        FLAGS.learning_rate,
        FLAGS.scale_learning_rate_from,
        scaled,
        FLAGS.global_batch_size,
    )
    return scaled


def positive_integers(name: str) -> tuple[int, ...]:
    """The value of a list flag as integers > 0; raises UsageError if it is not that."""
    text = FLAGS[name].value or []
    if not text or not all(item.strip().isdecimal() and int(item) > 0 for item in text):
        raise UsageError(f"--{name}={','.join(text)}: whole numbers above 0 are needed, separated by commas")
    return tuple(int(item) for item in text)


def inference() -> Inference:
    """How eval.py and predict.py segment; raises UsageError for scales that are none."""
    try:
        scales = tuple(float(item) for item in FLAGS.scales)
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 10 for scale in scales):
        raise UsageError(f"--scales={','.join(FLAGS.scales)}: numbers from 0.1 to 10 are needed, separated by commas")
    return Inference(scales, FLAGS.flip, FLAGS.window_size, FLAGS.window_overlap)


def output_stride() -> int | None:
    """--output_stride of eval.py and predict.py, or None for that of training."""
    return int(FLAGS.output_stride) if FLAGS.output_stride else None


def eval_batch_size(num_replicas: int) -> int:
    """--eval_batch_size or its default; raises UsageError unless it divides among the replicas."""
    batch_size = FLAGS.eval_batch_size or 4 * num_replicas
    check_batch_size("eval_batch_size", batch_size, num_replicas)
    return batch_size


def as_flagfile() -> str:
    """All flags of this program with their values of now, as text for --flagfile."""
    mine = FLAGS.flags_by_module_dict()[__name__]
    return "".join(f"{flag.serialize()}\n" for flag in mine if flag.value is not None)


def profile_steps() -> tuple[int, int] | None:
    """--profile_steps, or None without it; raises UsageError unless it is a first and a last step."""
    if not FLAGS.profile_steps:
        return None
    steps = positive_integers("profile_steps")
    if len(steps) != 2 or steps[0] > steps[1]:
        raise UsageError(f"--profile_steps={','.join(FLAGS.profile_steps)}: a first and a last step, as in 100,110")
    return steps[0], steps[1]


def hyperparameters() -> dict[str, object]:
    """What runs are compared by: `HYPERPARAMETERS`, and in `others` all further flags that are not at their default."""
    mine = {flag.name: flag for flag in FLAGS.flags_by_module_dict()[__name__]}
    others = [
        flag.serialize()
        for name, flag in mine.items()
        if name not in (*HYPERPARAMETERS, *_NO_HYPERPARAMETERS) and flag.value != flag.default
    ]
    return {name: mine[name].value for name in HYPERPARAMETERS} | {"others": " ".join(others)}


def optional_path(name: str) -> Path | None:
    """The value of a path flag; None where it was not given, or empty to take back what a --flagfile sets."""
    value = FLAGS[name].value
    return Path(value).expanduser() if value else None


def path(name: str) -> Path:
    """The value of a path flag that `require` has seen."""
    value = FLAGS[name].value
    assert value, f"--{name} was not required"
    return Path(value).expanduser()


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
