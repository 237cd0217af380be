"""Trains DeepLab v3 on PASCAL VOC 2012 or any data set in VOC's layout.

python train.py --voc_dir=VOCdevkit/VOC2012 --tfrecord_dir=shards --model_dir=runs/voc
"""

# ---- Flags. They are parsed before TensorFlow is imported, which takes seconds.
from deeplab.program.start import Program

from deeplab.data.input.settings import AugmentationSettings, EvaluationSettings, SamplingSettings
from deeplab.data.shards.settings import ShardSettings, SplitSettings
from deeplab.data.source.download import DownloadSettings
from deeplab.distribute.settings import DeviceSettings, PrecisionSettings, SeedSettings, StrategySettings
from deeplab.errors import UsageError
from deeplab.model.settings import Inference, InitSettings, ModelConfig
from deeplab.run.settings import CheckpointSettings, RunSettings
from deeplab.settings import Classes, Options, refuse_arguments, require
from deeplab.training.plan import Plan
from deeplab.training.settings import LossSettings, OptimizerSettings, ScheduleSettings, StepSettings

SETTINGS: Classes = (
    RunSettings,
    SplitSettings,
    ShardSettings,
    DownloadSettings,
    DeviceSettings,
    StrategySettings,
    PrecisionSettings,
    SeedSettings,
    ModelConfig,
    InitSettings,
    AugmentationSettings,
    SamplingSettings,
    LossSettings,
    OptimizerSettings,
    ScheduleSettings,
    StepSettings,
    Plan,
    CheckpointSettings,
    EvaluationSettings,
    Inference,
)


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing, before any slow work. `main` requires them again for their type."""
    refuse_arguments(arguments)
    require("tfrecord_dir", options[SplitSettings].tfrecord_dir)
    if not options[ShardSettings].prepare_only:
        require("model_dir", options[RunSettings].model_dir)
    if options[DownloadSettings].download and not options[ShardSettings].voc_dir:
        raise UsageError("--download needs --voc_dir")


if __name__ == "__main__":
    program = Program(SETTINGS, __doc__, check_flags)

# ---- The program.
import logging
from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.class_weights import class_weights
from deeplab.data.input.repeats import find_repeats
from deeplab.data.input.training_batches import first_crops
from deeplab.data.shards.split import Split, name_damaged_shard, read_splits
from deeplab.data.shards.write import write_shards
from deeplab.distribute.devices import check_strategy, make_strategy
from deeplab.distribute.numerics import set_precision, set_seed
from deeplab.distribute.workers import Workers
from deeplab.evaluator import Evaluator, batches_to_score
from deeplab.model.inference import Predictor
from deeplab.resume import config_of_start, resume_or_start
from deeplab.run import provenance, run_folder
from deeplab.run.log import RunLog
from deeplab.trainer import Feed, Trainer
from deeplab.training.losses import Loss
from deeplab.training.step import make_train_step
from deeplab.view.panel import LARGEST_PANEL, Panel, first_batch

logger = logging.getLogger("deeplab")


def main(options: Options, arguments: list[str]) -> Trainer | None:
    """Devices -> shards -> splits -> run folder -> training.

    Returns the trainer, if there is one: until the process ends its iterators must not be dropped, which takes long.
    """
    shard_settings = options[ShardSettings]

    # ---- Devices, precision, seeds. First: TensorFlow can split the CPU into devices, and start its server, only
    # before its first operation.
    strategy = make_strategy(
        options[DeviceSettings],
        options[StrategySettings].strategy,
        options[StepSettings].jit_compile,
        options[StrategySettings].connect_minutes,
    )
    check_strategy(
        strategy,
        options[Plan].global_batch_size,
        options[StepSettings].accumulate_steps,
        options[StepSettings].jit_compile,
    )
    set_precision(options[PrecisionSettings])
    set_seed(options[SeedSettings])
    workers = Workers(strategy)

    # ---- Data. The chief writes the shards; the others wait for it and read them.
    if workers.is_chief:
        tfrecord_dir = require("tfrecord_dir", options[SplitSettings].tfrecord_dir)
        if write_shards(shard_settings, options[DownloadSettings], tfrecord_dir):
            names = f"--train_split={shard_settings.train_split} --val_split={shard_settings.val_split}"
            logger.info("look at the data set: python -m deeplab.look --tfrecord_dir=%s %s", tfrecord_dir, names)
    workers.wait()
    split, val_split = read_splits(
        options[SplitSettings], shard_settings.train_split, shard_settings.val_split, shard_settings.class_names
    )
    if shard_settings.prepare_only:
        return None
    split.check_two_classes()
    options[Plan].check_validation(has_split=val_split is not None)

    # ---- Training. The run's folder is locked until it ends; an error about damaged data names the shard.
    model_dir = require("model_dir", options[RunSettings].model_dir)
    splits = [split] if val_split is None else [split, val_split]
    with run_folder.output_folder(model_dir, workers.is_chief) as output_dir, name_damaged_shard(splits):
        trainer = train(options, strategy, workers, split, val_split, output_dir)
    data = f"--tfrecord_dir={split.folder} --split={(val_split or split).name}"
    logger.info("done; to score it: python eval.py --model_dir=%s %s", model_dir, data)
    return trainer


def train(
    options: Options,
    strategy: tf.distribute.Strategy,
    workers: Workers,
    split: Split,
    val_split: Split | None,
    output_dir: Path,
) -> Trainer:
    """Plan -> state -> files of the run -> data -> step -> validation -> trainer.

    Only the chief's `output_dir` is the run's folder; the other workers write to a scratch folder.
    """
    # ---- What is trained, for how long. An epoch counts repeated examples.
    config = config_of_start(options, split.colored_names)
    repeats = find_repeats(options[SamplingSettings], split)
    plan = replace(options[Plan], num_examples=split.num_examples + repeats.num_extra)

    # ---- State: resumed, or started from another run, or from ImageNet.
    state, checkpoints = resume_or_start(options, strategy, workers, config, plan, split, val_split, output_dir)

    # ---- Files of the run: how this start was made; later, one line of metrics at a time.
    augmentation = Augmentation(options[AugmentationSettings])
    step_settings = options[StepSettings]
    run_folder.record_run(output_dir, config, options.as_flagfile())
    provenance.record_start(output_dir, state, plan, augmentation.settings.crop_size, step_settings.accumulate_steps)
    panel = Panel(split.colored_names)  # the evaluator shows it predictions, the log writes its pictures
    log = RunLog(output_dir, split.class_names, options.as_flagfile(), options.hyperparameters(), panel)

    # ---- Data, from the state's position in it.
    seeds = options[SeedSettings]
    feed = Feed.make(
        strategy,
        split,
        augmentation,
        plan.global_batch_size,
        seed=seeds.seed,
        first_example=int(state.examples),
        repeats=repeats,
    )

    # A new run begins with pictures of its first crops.
    if int(state.step) == 0:
        crops = first_crops(split, augmentation, min(plan.global_batch_size, LARGEST_PANEL), seeds.seed, repeats)
        log.write_pictures(0, "train", first_batch(crops, split.colored_names))

    # ---- The compiled step.
    weights = class_weights(options[LossSettings].class_weights, split)
    loss = Loss(split.num_classes, options[LossSettings], weights)
    train_step = make_train_step(
        strategy,
        state,
        loss,
        step_settings,
        weight_decay=options[OptimizerSettings].l2,
        finish=augmentation.finish,
        deterministic=seeds.deterministic,
    )

    # ---- Validation, by the same loss.
    evaluator = None
    if val_split is not None:
        batches = batches_to_score(options[EvaluationSettings], val_split, strategy.num_replicas_in_sync)
        with strategy.scope():
            predict = Predictor(state.model, options[Inference])
        evaluator = Evaluator(strategy, predict, loss, batches, viewers=[panel], deterministic=seeds.deterministic)

    trainer = Trainer(
        plan, state, train_step, feed, evaluate=evaluator, checkpoints=checkpoints, log=log, workers=workers
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    program.run(main)
