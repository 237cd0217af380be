"""Trains DeepLab v3 on PASCAL VOC 2012 or any data set in VOC's layout.

python train.py --voc_dir=VOCdevkit/VOC2012 --tfrecord_dir=shards --model_dir=runs/voc
"""

from deeplab.program.start import start_program

import logging
from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from deeplab.data.input.augmentation import Augmentation
from deeplab.data.input.class_weights import class_weights
from deeplab.data.input.sampling import SamplingSettings
from deeplab.data.input.training import first_crops
from deeplab.data.shards.split import Split, SplitSettings, name_damaged_shard, read_splits
from deeplab.data.shards.write import ShardSettings, write_shards
from deeplab.data.source.download import DownloadSettings
from deeplab.distribute.devices import DeviceSettings, StrategySettings, check_strategy, make_strategy
from deeplab.distribute.numerics import PrecisionSettings, SeedSettings, set_precision, set_seed
from deeplab.distribute.workers import Workers
from deeplab.errors import UsageError
from deeplab.evaluator import EvaluationSettings, Evaluator
from deeplab.model.deeplabv3 import InitSettings, ModelConfig, build_to_train, fetch_weights
from deeplab.model.inference import Inference, Predictor
from deeplab.run import provenance, run_folder
from deeplab.run.checkpoints import Checkpoints, CheckpointSettings
from deeplab.run.log import RunLog
from deeplab.run.run_folder import RunSettings
from deeplab.run.splits import (
    SplitRecord,
    forget_scores_of_other_data,
    read_splits_of_run,
    write_splits_of_run,
)
from deeplab.settings import Classes, Options, require
from deeplab.trainer import Feed, Trainer
from deeplab.training.losses import Loss, LossSettings
from deeplab.training.optimizer import OptimizerSettings, make_optimizer
from deeplab.training.plan import Plan
from deeplab.training.schedule import Schedule, ScheduleSettings
from deeplab.training.state import TrainState
from deeplab.training.step import StepSettings, make_train_step
from deeplab.view.panel import LARGEST_PANEL, Panel, first_batch

logger = logging.getLogger("deeplab")

SETTINGS: Classes = (
    *(RunSettings, SplitSettings, ShardSettings, DownloadSettings),
    *(DeviceSettings, StrategySettings, PrecisionSettings, SeedSettings),
    *(ModelConfig, InitSettings, Augmentation, SamplingSettings, LossSettings, OptimizerSettings),
    *(ScheduleSettings, StepSettings, Plan, CheckpointSettings, EvaluationSettings, Inference),
)


def main(argv: list[str]) -> None:
    """Workers -> shards -> splits -> run folder -> training."""
    options = Options(SETTINGS)
    if argv[1:]:
        raise UsageError(f"unexpected argument {argv[1]!r}: train.py takes only flags")
    require(options[SplitSettings], "tfrecord_dir")
    if not options[ShardSettings].prepare_only:
        require(options[RunSettings], "model_dir")
    if options[DownloadSettings].download and not options[ShardSettings].voc_dir:
        raise UsageError("--download needs --voc_dir")
    step = options[StepSettings]
    strategy = make_strategy(options[DeviceSettings], options[StrategySettings].strategy, step.jit_compile)
    check_strategy(strategy, options[Plan].global_batch_size, step.accumulate_steps, step.jit_compile)
    set_precision(options[PrecisionSettings])
    set_seed(options[SeedSettings])
    workers = Workers(strategy)
    shards, tfrecord_dir = options[ShardSettings], options[SplitSettings].tfrecord_dir
    if workers.is_chief and write_shards(shards, options[DownloadSettings], tfrecord_dir):
        flags = f"--tfrecord_dir={tfrecord_dir} --train_split={shards.train_split} --val_split={shards.val_split}"
        logger.info("look at the data set: python -m deeplab.look %s", flags)
    workers.wait()  # for the chief
    split, val_split = read_splits(options[SplitSettings], shards.train_split, shards.val_split, shards.class_names)
    if shards.prepare_only:
        return
    split.check_two_classes()
    options[Plan].check_validation(has_split=val_split is not None)
    model_dir = options[RunSettings].model_dir
    splits = [split] if val_split is None else [split, val_split]
    with run_folder.output_folder(model_dir, workers.is_chief) as output_dir, name_damaged_shard(splits):
        train(options, strategy, workers, split, val_split, output_dir)
    scored = f"--tfrecord_dir={tfrecord_dir} --split={splits[-1].name}"
    logger.info("done; to score it: python eval.py --model_dir=%s %s", model_dir, scored)


def train(
    options: Options,
    strategy: tf.distribute.Strategy,
    workers: Workers,
    split: Split,
    val_split: Split | None,
    output_dir: Path,
) -> None:
    """State -> checkpoints -> data -> step -> validation -> trainer; `output_dir` is scratch except for the chief."""
    config = replace(options[ModelConfig], class_names=split.class_names)
    repeats = options[SamplingSettings].repeats(split)
    plan = replace(options[Plan], num_examples=split.num_examples + repeats.num_more)
    model_dir, init_checkpoint = options[RunSettings].model_dir, options[InitSettings].init_checkpoint
    resumes = run_folder.has_checkpoint(model_dir)
    if resumes:
        run_folder.check_run(
            model_dir, config, options.as_flagfile(), options.defaults_as_flagfile(), options.fixed_names()
        )
    splits_before = read_splits_of_run(model_dir) if resumes else {}
    has_weights = resumes or init_checkpoint is not None
    if workers.are_several:
        fetch_weights(config, options[InitSettings], has_weights)
    state = make_state(options, strategy, config, plan, has_weights)
    checkpoints = Checkpoints(
        model_dir / run_folder.CHECKPOINTS, output_dir / run_folder.CHECKPOINTS, state, options[CheckpointSettings]
    )
    checkpoints.resume(plan.total_steps, strategy.num_replicas_in_sync)
    # Saved before the new splits are recorded: a run that is killed in between forgets the old scores once more.
    splits = {"train": split} if val_split is None else {"train": split, "val": val_split}
    records = {role: SplitRecord(each.name, each.digest, each.num_examples) for role, each in splits.items()}
    if forget_scores_of_other_data(state, splits_before, records):
        checkpoints.save_latest()
    write_splits_of_run(output_dir, splits_before | records)
    if init_checkpoint is not None and int(state.step) == 0:
        with strategy.scope():
            run_folder.init_weights(state.training_model, init_checkpoint, config.class_names)
    run_folder.record_run(output_dir, config, options.as_flagfile())
    augmentation, step, seeds = options[Augmentation], options[StepSettings], options[SeedSettings]
    provenance.record_start(output_dir, state, plan, augmentation.crop_size, step.accumulate_steps)
    panel = Panel(split.class_names)
    log = RunLog(output_dir, split.class_names, options.as_flagfile(), options.hyperparameters(), panel)
    if int(state.step) == 0:
        crops = first_crops(split, augmentation, min(plan.global_batch_size, LARGEST_PANEL), seeds.seed, repeats)
        log.write_pictures(0, "train", first_batch(crops, split.class_names))
    loss = Loss(split.num_classes, options[LossSettings], class_weights(options[LossSettings].class_weights, split))
    decay, finish, exact = options[OptimizerSettings].l2, augmentation.finish, seeds.deterministic
    train_step = make_train_step(strategy, state, loss, step, weight_decay=decay, finish=finish, deterministic=exact)
    feed = Feed.make(strategy, split, augmentation, plan.global_batch_size, seeds.seed, int(state.examples), repeats)
    evaluator = None
    if val_split is not None:
        batches = options[EvaluationSettings].batches(val_split, strategy.num_replicas_in_sync)
        with strategy.scope():
            predict = Predictor(state.model, options[Inference])
        evaluator = Evaluator(strategy, predict, loss, batches, [panel], exact)
    Trainer(plan, state, train_step, feed, evaluator, checkpoints, log, workers).run()


def make_state(
    options: Options, strategy: tf.distribute.Strategy, config: ModelConfig, plan: Plan, has_weights: bool
) -> TrainState:
    """Network, optimizer and schedule before any restore; `has_weights`: a checkpoint's weights are restored later."""
    optimizing, has_auxiliary_head = options[OptimizerSettings], options[LossSettings].auxiliary_weight > 0
    with strategy.scope():
        model, training_model = build_to_train(config, options[InitSettings], has_weights, has_auxiliary_head)
        scale = tf.Variable(1.0, trainable=False, name="learning_rate_scale")
        learning_rate = optimizing.peak_learning_rate(plan.global_batch_size)
        schedule = Schedule(options[ScheduleSettings], learning_rate, plan.total_steps, scale)
        loss_scaling = options[PrecisionSettings].precision == "float16"
        optimizer = make_optimizer(optimizing, schedule, training_model.trainable_variables, loss_scaling)
    return TrainState(model, training_model, optimizer, schedule)


if __name__ == "__main__":
    start_program(main, SETTINGS, __doc__)
