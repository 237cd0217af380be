"""Scores a trained model on a split: per-class IoU, mean IoU and accuracies at native resolution.

python eval.py --model_dir=runs/voc --tfrecord_dir=shards --split=val --output_dir=runs/voc/pictures --report=runs/voc
"""

# ---- Flags. They are parsed before TensorFlow is imported, which takes seconds.
from deeplab.program.start import Program

from deeplab.commands.settings import ScoreSettings
from deeplab.data.input.settings import EvaluationSettings
from deeplab.data.shards.settings import SplitSettings
from deeplab.distribute.settings import DeviceSettings, PrecisionSettings
from deeplab.model.settings import Inference, ModelConfig
from deeplab.run.settings import LoadSettings, RunSettings
from deeplab.settings import Classes, Options, refuse_arguments, require

SETTINGS: Classes = (
    RunSettings,
    SplitSettings,
    ScoreSettings,
    LoadSettings,
    Inference,
    EvaluationSettings,
    DeviceSettings,
    PrecisionSettings,
)


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing, and for arguments. `main` requires them again for their type."""
    refuse_arguments(arguments)
    require("model_dir", options[RunSettings].model_dir)
    require("tfrecord_dir", options[SplitSettings].tfrecord_dir)


if __name__ == "__main__":
    program = Program(SETTINGS, __doc__, check_flags)

# ---- The program.
import json
import logging
from dataclasses import asdict
from pathlib import Path

import tensorflow as tf

from deeplab.data.input.evaluation_batches import EvaluationBatches
from deeplab.data.input.stored import names_in_list_order
from deeplab.data.shards.split import Split, name_damaged_shard
from deeplab.distribute.devices import make_strategy
from deeplab.distribute.numerics import set_precision
from deeplab.evaluator import Evaluator, Viewer, batches_to_score
from deeplab.files import write_text
from deeplab.model.inference import Predictor
from deeplab.run import provenance, run_folder
from deeplab.run.checkpoints import checkpoint_step
from deeplab.training.boundary import BoundaryScores
from deeplab.training.losses import Loss
from deeplab.training.metrics import Evaluation, table
from deeplab.view import comparison, page, report
from deeplab.view.comparison import Other
from deeplab.view.gallery import Gallery
from deeplab.view.image_scores import PER_IMAGE, ImageScores
from deeplab.view.picture_writer import PictureWriter

logger = logging.getLogger("deeplab")


def main(options: Options, arguments: list[str]) -> Evaluator:
    """Checkpoint and split -> scores, metrics.json, pictures, report. Returns the evaluator; see train.py."""
    model_dir = require("model_dir", options[RunSettings].model_dir)
    tfrecord_dir = require("tfrecord_dir", options[SplitSettings].tfrecord_dir)
    scoring = options[ScoreSettings]

    # ---- Devices. Before all else, as in train.py.
    strategy = make_strategy(options[DeviceSettings])
    set_precision(options[PrecisionSettings])

    # ---- Data.
    split = Split.read(tfrecord_dir, scoring.split)
    batches = batches_to_score(options[EvaluationSettings], split, strategy.num_replicas_in_sync)
    if options[SplitSettings].verify:
        split.verify()

    # ---- The network, which must know the split's classes.
    with strategy.scope():
        model, config, checkpoint = run_folder.load_model(
            model_dir, scoring.checkpoint, options[LoadSettings].output_stride
        )
        run_folder.check_classes(split.folder, split.class_names, config.class_names)
        predict = Predictor(model, options[Inference])
    logger.info("scoring %s on %s, %d images", checkpoint, split.name, split.num_examples)
    return score(options, strategy, predict, batches, config, checkpoint)


def score(
    options: Options,
    strategy: tf.distribute.Strategy,
    predict: Predictor,
    batches: EvaluationBatches,
    config: ModelConfig,
    checkpoint: str,
) -> Evaluator:
    """Scores the split, prints the table, writes metrics.json, per_image.csv, pictures and the report."""
    scoring = options[ScoreSettings]
    split = batches.split
    model_dir = require("model_dir", options[RunSettings].model_dir)
    output_dir = scoring.output_dir or model_dir / "eval" / split.name

    # What to compare with. Read first, so that a mistake does not cost an evaluation.
    with name_damaged_shard([split]):
        names = names_in_list_order(split)
    other = Other.read(scoring.compare, config.class_names, names) if scoring.compare else None

    # Viewers see each prediction.
    gallery = Gallery(scoring.report, config.colored_names) if scoring.report else None
    image_scores = ImageScores(config.class_names)
    viewers: list[Viewer] = [image_scores]
    if scoring.output_dir:
        viewers.append(PictureWriter(scoring.output_dir, config.colored_names))
    if gallery:
        viewers.append(gallery)
    if scoring.boundaries:
        viewers.append(BoundaryScores(config.num_classes))

    evaluator = Evaluator(strategy, predict, Loss(config.num_classes), batches, viewers=viewers)
    with name_damaged_shard([split]):
        evaluation = evaluator()

    # What is left of it.
    print(table(config.class_names, evaluation.scores))
    write_record(output_dir, options, split, config, checkpoint, evaluation)
    write_text(output_dir / PER_IMAGE, image_scores.as_csv(names))
    files = ["metrics.json", PER_IMAGE, *(["masks/", "side_by_side/"] if scoring.output_dir else [])]
    logger.info("%s has %s", output_dir, ", ".join(files))
    if other:
        print(comparison.as_text(evaluation.scores, config.class_names, image_scores.mean_ious, other))
    if gallery:
        write_report(options, output_dir, split, config, checkpoint, evaluation, gallery, other)
    return evaluator


def write_record(
    folder: Path, options: Options, split: Split, config: ModelConfig, checkpoint: str, evaluation: Evaluation
) -> None:
    """Writes metrics.json: the record of a scored split, and how it was scored."""
    record = {
        "step": checkpoint_step(checkpoint),
        "split": split.name,
        **evaluation.to_json(config.class_names),
        "checkpoint": checkpoint,
        "output_stride": config.output_stride,
        **asdict(options[Inference]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(record) + "\n")


def write_report(
    options: Options,
    output_dir: Path,
    split: Split,
    config: ModelConfig,
    checkpoint: str,
    evaluation: Evaluation,
    gallery: Gallery,
    other: Other | None,
) -> None:
    """Writes report.html: the evaluation, beside the curves of the training run."""
    model_dir = require("model_dir", options[RunSettings].model_dir)
    folder = require("report", options[ScoreSettings].report)
    text = report.render(
        title=f"{model_dir.name} on {split.name}",
        class_names=config.colored_names,
        evaluation=evaluation,
        gallery=gallery,
        records=report.read_records(model_dir / "metrics.jsonl"),
        facts={
            "data": f"{split.folder}, split {split.name}",
            "checkpoint": f"{checkpoint} (step {checkpoint_step(checkpoint):,})",
            "network": f"{config.architecture} on {config.backbone}, output stride {config.output_stride}",
            **described(options[Inference]),
            "each image": page.link(output_dir / PER_IMAGE, folder),
        },
        trained=provenance.read_description(model_dir),
        other=other,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.html", text)
    logger.info("wrote %s", folder / "report.html")


def described(inference: Inference) -> dict[str, str]:
    """The views that were averaged, in words."""
    scales = ", ".join(f"{scale:g}" for scale in inference.scales)
    windows = f"of {inference.window_size:,} pixels, each shared with the next by {inference.window_overlap:.0%}"
    return {
        "scales": scales,
        "mirrored, too": "yes" if inference.flip else "no",
        "windows": windows.replace("%", " %") if inference.window_size else "none: whole images",
    }


if __name__ == "__main__":
    program.run(main)
