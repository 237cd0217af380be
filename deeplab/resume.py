"""The state from which a run starts or continues: its newest checkpoint, another run's weights, or ImageNet's."""

import logging
from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from deeplab.data.shards.split import Split
from deeplab.distribute.settings import PrecisionSettings
from deeplab.distribute.workers import Workers
from deeplab.labels import ColoredNames
from deeplab.model.backbone import family_of_weights
from deeplab.model.conventions import KERAS
from deeplab.model.deeplabv3 import backbone_of, build_to_train, fetch_weights
from deeplab.model.settings import InitSettings, ModelConfig
from deeplab.run import run_folder
from deeplab.run.checkpoints import Checkpoints
from deeplab.run.settings import CheckpointSettings, RunSettings
from deeplab.run.splits import SplitRecord, forget_scores_of_other_data, read_splits_of_run, write_splits_of_run
from deeplab.settings import Options, require
from deeplab.training.optimizer import make_optimizer
from deeplab.training.plan import Plan
from deeplab.training.schedule import Schedule
from deeplab.training.settings import LossSettings, OptimizerSettings, ScheduleSettings, StepSettings
from deeplab.training.state import TrainState

logger = logging.getLogger("deeplab")


def resume_or_start(
    options: Options,
    strategy: tf.distribute.Strategy,
    workers: Workers,
    config: ModelConfig,
    plan: Plan,
    split: Split,
    val_split: Split | None,
    output_dir: Path,
) -> tuple[TrainState, Checkpoints]:
    """The state at the step from which the run continues, and what saves it; records the splits of this start.

    The order matters: flags that contradict the run are refused before anything is built; slots exist before a restore;
    a state whose scores were forgotten is saved before the new splits are recorded, so that a run that is killed in
    between forgets them once more.
    """
    model_dir = require("model_dir", options[RunSettings].model_dir)
    init_checkpoint = options[InitSettings].init_checkpoint

    # A run that continues: its flags must fit.
    resumes = run_folder.has_checkpoint(model_dir)
    if resumes:
        run_folder.check_run(
            model_dir, config, options.as_flagfile(), options.defaults_as_flagfile(), options.fixed_names()
        )

    # The network, with ImageNet's weights unless others replace them.
    has_weights = resumes or init_checkpoint is not None
    if workers.are_several:
        fetch_weights(config, options[InitSettings], has_weights)
    state = make_state(options, strategy, config, plan, has_weights)
    checkpoints = Checkpoints(
        model_dir / run_folder.CHECKPOINTS, output_dir / run_folder.CHECKPOINTS, state, options[CheckpointSettings]
    )
    checkpoints.resume(plan.total_steps, strategy.num_replicas_in_sync)

    # Scores belong to the split that they were computed on.
    splits = {"train": split} if val_split is None else {"train": split, "val": val_split}
    records = {role: SplitRecord(each.name, each.digest, each.num_examples) for role, each in splits.items()}
    records_before = read_splits_of_run(model_dir) if resumes else {}
    if forget_scores_of_other_data(state, records_before, records):
        checkpoints.save_latest()
    write_splits_of_run(output_dir, records_before | records)

    # A run that has not begun starts from another run's weights.
    if init_checkpoint is not None and int(state.step) == 0:
        with strategy.scope():
            run_folder.init_weights(state.training_model, init_checkpoint, config.class_names)
    return state, checkpoints


def config_of_start(options: Options, classes: ColoredNames) -> ModelConfig:
    """The network that the flags describe, with the conventions of the weights that it starts or continues from.

    Raises:
        DataError: there are no such weights.
        UsageError: they are of another backbone, or the folder holds imported weights.
    """
    config = replace(options[ModelConfig], class_names=tuple(classes), class_colors=classes.colors)
    model_dir = require("model_dir", options[RunSettings].model_dir)
    init = options[InitSettings]
    run_folder.check_not_imported(model_dir)
    if run_folder.has_checkpoint(model_dir):
        source = run_folder.read_config(model_dir)
    elif init.init_checkpoint is not None:
        source = run_folder.read_config(run_folder.run_of(init.init_checkpoint))
    else:
        source = replace(config, backbone_family=family_of_weights(init.backbone_weights))
    if source.backbone_family != KERAS:
        logger.info("%s: as in %s's, from which its weights are", config.backbone, source.backbone_family)
    return replace(config, backbone_family=source.backbone_family, head_family=source.head_family)


def make_state(
    options: Options, strategy: tf.distribute.Strategy, config: ModelConfig, plan: Plan, has_weights: bool
) -> TrainState:
    """Network, optimizer and schedule before any restore; `has_weights`: a checkpoint's weights are restored later."""
    optimizing = options[OptimizerSettings]
    has_auxiliary_head = options[LossSettings].auxiliary_weight > 0
    with strategy.scope():
        model, training_model = build_to_train(
            config,
            options[InitSettings],
            has_weights=has_weights,
            auxiliary_head=has_auxiliary_head,
            frozen_backbone=optimizing.backbone_learning_rate_factor == 0,
            recompute=options[StepSettings].recompute,
        )

        # A plateau lowers the scale, which is saved with the state.
        scale = tf.Variable(1.0, trainable=False, name="learning_rate_scale")
        learning_rate = optimizing.peak_learning_rate(plan.global_batch_size)
        schedule = Schedule(options[ScheduleSettings], learning_rate, plan.total_steps, scale)

        loss_scaling = options[PrecisionSettings].precision == "float16"
        optimizer = make_optimizer(
            optimizing,
            schedule,
            training_model.trainable_variables,
            loss_scaling,
            of_backbone=backbone_of(training_model).trainable_variables,
        )
    return TrainState(model, training_model, optimizer, schedule)
