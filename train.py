"""Trains DeepLab v3 on PASCAL VOC 2012, or on any data set in VOC's layout.

python train.py --voc_dir=VOCdevkit/VOC2012 --tfrecord_dir=shards --model_dir=runs/voc
"""

import functools
import logging
import math
from collections.abc import Callable
from pathlib import Path

from deeplab.quiet import without_noise

# isort: split
import keras
import tensorflow as tf

from deeplab import distribution, flags, program, provenance, runs, trainer
from deeplab.data import manifest as manifests
from deeplab.data import pipeline, tfrecord, voc
from deeplab.data.manifest import Manifest, damage_named
from deeplab.errors import DataError, UsageError
from deeplab.flags import FLAGS
from deeplab.model.deeplabv3 import ModelConfig, build_deeplabv3, freeze_batch_norm, without_auxiliary_head
from deeplab.model.inference import make_predictor
from deeplab.monitor import LARGEST_PANEL, Monitor, Profiler
from deeplab.training import schedules, step
from deeplab.training.checkpoint import Checkpoints, TrainingState
from deeplab.training.evaluation import Evaluation, make_evaluation
from deeplab.training.losses import Loss, inverse_frequency_weights
from deeplab.training.summaries import RunLog

logger = logging.getLogger("deeplab")

PAPER_TRAIN_STEPS = 30_000


def main(argv: list[str]) -> None:
    """Flags -> shards -> training in a folder that is this run's alone."""
    if argv[1:]:
        raise UsageError(f"unexpected argument {argv[1]!r}: train.py takes flags alone")
    flags.check_train_flags()
    strategy = distribution.make_strategy(FLAGS.strategy, FLAGS.num_gpus, FLAGS.num_cpu_replicas)
    flags.check_strategy(strategy)
    distribution.set_numerics(FLAGS.precision, FLAGS.seed, FLAGS.deterministic)
    is_chief, any_worker = distribution.is_chief(strategy), distribution.make_any_worker(strategy)

    if is_chief and FLAGS.voc_dir:
        write_shards()
    any_worker(False)  # the others wait here for the chief
    manifest, val_manifest = read_manifests()
    if FLAGS.prepare_only:
        return
    model_dir, tfrecord_dir = flags.path("model_dir"), flags.path("tfrecord_dir")
    if sum(pixels > 0 for pixels in manifest.class_pixels) < 2:
        raise DataError(
            f"{manifests.manifest_path(tfrecord_dir, manifest.split)}: all pixels are of one class or void (255); "
            "masks hold class indices, so those of two classes are 0 and 1, not 0 and 255"
        )
    all_manifests = [each for each in (manifest, val_manifest) if each is not None]
    with runs.output_folder(model_dir, is_chief) as output_dir, damage_named(tfrecord_dir, all_manifests):
        train(strategy, manifest, val_manifest, output_dir, any_worker)
    logger.info("done; score it: python eval.py --model_dir=%s --tfrecord_dir=%s", model_dir, tfrecord_dir)


def train(
    strategy: tf.distribute.Strategy,
    manifest: Manifest,
    val_manifest: Manifest | None,
    output_dir: Path,
    any_worker: Callable[[bool], bool],
) -> None:
    """Datasets -> model -> training loop; `output_dir` is --model_dir, or a worker's own that nobody keeps."""
    config = ModelConfig(
        class_names=manifest.class_names,
        backbone=FLAGS.backbone,
        output_stride=int(FLAGS.output_stride),
        atrous_rates=flags.positive_integers("atrous_rates"),
        multi_grid=flags.positive_integers("multi_grid"),
        batch_norm_epsilon=FLAGS.batch_norm_epsilon,
    )
    plan = make_plan(manifest)
    model_dir, tfrecord_dir = flags.path("model_dir"), flags.path("tfrecord_dir")
    resumes = runs.has_checkpoint(model_dir)
    if resumes:
        runs.check_run(model_dir, config, flags.as_flagfile())

    with strategy.scope():
        has_weights = resumes or FLAGS.init_checkpoint is not None or FLAGS.backbone_weights == "none"
        training_model = build_deeplabv3(
            config,
            None if has_weights else FLAGS.backbone_weights,
            FLAGS.batch_norm_momentum,
            auxiliary_head=FLAGS.auxiliary_weight > 0,
        )
        model = without_auxiliary_head(training_model)
        if FLAGS.freeze_batch_norm:
            freeze_batch_norm(training_model)
        rate_scale = tf.Variable(1.0, trainable=False, name="learning_rate_scale")
        schedule = schedules.Schedule(
            FLAGS.schedule, flags.learning_rate(), plan.train_steps, FLAGS.warmup_steps, rate_scale
        )
        optimizer = schedules.make_optimizer(
            FLAGS.optimizer,
            schedule,
            FLAGS.momentum,
            FLAGS.weight_decay,
            training_model.trainable_variables,
            loss_scaling=FLAGS.precision == "float16",
            ema_momentum=FLAGS.ema_momentum,
        )
    loss = make_loss(manifest)
    state = TrainingState()
    checkpoints = Checkpoints(
        model_dir / runs.CHECKPOINTS,
        output_dir / runs.CHECKPOINTS,
        model,
        training_model,
        optimizer,
        rate_scale,
        state,
        keep=FLAGS.keep_checkpoints,
    )
    resume(checkpoints, state, plan, strategy.num_replicas_in_sync)
    if FLAGS.init_checkpoint is not None and int(state.step) == 0:
        with strategy.scope():
            runs.init_weights(training_model, flags.path("init_checkpoint"))
    runs.record_run(output_dir, config, flags.as_flagfile())
    provenance.record_start(output_dir, int(state.step))

    def make_batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return pipeline.training_batches(
            tfrecord_dir,
            manifest,
            make_augmentation(),
            FLAGS.global_batch_size,
            FLAGS.seed,
            first_example=int(state.examples),
            context=context,
        )

    with without_noise():
        batches = iter(strategy.distribute_datasets_from_function(make_batches))
    log = RunLog(output_dir, flags.as_flagfile(), flags.hyperparameters())
    evaluate, monitor = make_validation(strategy, model, loss, val_manifest, log) if val_manifest else (None, None)

    trainer.Trainer(
        plan,
        step.make_train_function(
            strategy,
            training_model,
            optimizer,
            loss,
            weight_decay=0.0 if FLAGS.optimizer == "adamw" else FLAGS.weight_decay,
            auxiliary_weight=FLAGS.auxiliary_weight,
            clip_norm=FLAGS.clip_norm,
            accumulate_steps=FLAGS.accumulate_steps,
            jit_compile=FLAGS.jit_compile,
            deterministic=FLAGS.deterministic,
            finish=make_augmentation().finish,
        ),
        batches,
        evaluate,
        checkpoints,
        state,
        schedule,
        log,
        manifest.class_names,
        example_names=lambda first, count: pipeline.training_ids(tfrecord_dir, manifest, FLAGS.seed, first, count),
        averaged_weights=lambda: schedules.averaged_weights(optimizer, training_model.trainable_variables),
        any_worker=any_worker if distribution.is_multi_worker(strategy) else None,
        monitor=monitor,
        profiler=Profiler(output_dir, *plan.profile_steps) if plan.profile_steps else None,
    ).run()


def write_shards() -> None:
    """Writes the shards of both splits from --voc_dir, as far as they are not there yet."""
    voc_dir, tfrecord_dir = flags.path("voc_dir"), flags.path("tfrecord_dir")
    if FLAGS.download:
        voc.download(voc_dir, FLAGS.voc_url)
    class_names = voc.read_class_names(flags.optional_path("class_names"))
    for split, masks in ((FLAGS.train_split, flags.optional_path("mask_dir")), (FLAGS.val_split, None)):
        if split:
            tfrecord.prepare(voc_dir, tfrecord_dir, split, class_names, FLAGS.num_shards, masks, FLAGS.max_bad_examples)


def read_manifests() -> tuple[Manifest, Manifest | None]:
    """Of the training and the validation split, if there is one."""
    manifest = read_manifest(FLAGS.train_split)
    val_manifest = read_manifest(FLAGS.val_split) if FLAGS.val_split else None
    if val_manifest is not None and val_manifest.class_names != manifest.class_names:
        raise UsageError(f"--tfrecord_dir: {manifest.split} and {val_manifest.split} have different classes")
    return manifest, val_manifest


def read_manifest(split: str) -> Manifest:
    """The manifest of a split whose shards stand, checked as the flags say."""
    tfrecord_dir, class_names_file = flags.path("tfrecord_dir"), flags.optional_path("class_names")
    manifest = manifests.read_manifest(tfrecord_dir, split)
    if class_names_file is not None and manifest.class_names != voc.read_class_names(class_names_file):
        raise UsageError(f"--class_names={class_names_file}: not the classes of the shards in {tfrecord_dir}")
    if FLAGS.verify:
        manifests.verify_shards(tfrecord_dir, manifest)
    return manifest


def make_plan(manifest: Manifest) -> trainer.Plan:
    """How long to train, from flags and the size of the training split."""
    steps_per_epoch = manifest.num_examples / FLAGS.global_batch_size
    train_steps = FLAGS.train_steps or PAPER_TRAIN_STEPS
    if FLAGS.epochs:
        train_steps = max(math.ceil(FLAGS.epochs * steps_per_epoch), 1)
    return trainer.Plan(
        train_steps=train_steps,
        steps_per_epoch=steps_per_epoch,
        global_batch_size=FLAGS.global_batch_size,
        steps_per_call=FLAGS.steps_per_call,
        log_every_steps=FLAGS.log_every_steps,
        eval_every_epochs=FLAGS.eval_every_epochs,
        checkpoint_steps=FLAGS.checkpoint_steps,
        checkpoint_minutes=FLAGS.checkpoint_minutes,
        plateau_patience=FLAGS.plateau_patience,
        plateau_factor=FLAGS.plateau_factor,
        early_stopping_patience=FLAGS.early_stopping_patience,
        profile_steps=flags.profile_steps(),
    )


def make_loss(manifest: Manifest) -> Loss:
    """The loss that the flags name; class weights come from the whole training split."""
    weights = None
    if FLAGS.class_weights == "inverse_frequency":
        weights = inverse_frequency_weights(manifest.class_pixels)
    return Loss(
        FLAGS.loss,
        manifest.num_classes,
        weights,
        voc.IGNORE_LABEL,
        FLAGS.label_smoothing,
        FLAGS.focal_gamma,
        FLAGS.hard_pixel_fraction,
    )


def make_validation(
    strategy: tf.distribute.Strategy, model: keras.Model, loss: Loss, manifest: Manifest, log: RunLog
) -> tuple[Callable[[], Evaluation], Monitor]:
    """What scores the validation split, and what draws of it the pictures that the first replica gets first."""
    tfrecord_dir, batch_size = flags.path("tfrecord_dir"), flags.eval_batch_size(strategy.num_replicas_in_sync)
    evaluate = make_evaluation(
        strategy,
        make_predictor(model),
        loss,
        lambda context: pipeline.evaluation_batches(tfrecord_dir, manifest, batch_size, context),
        num_batches=math.ceil(manifest.num_examples / batch_size),
        deterministic=FLAGS.deterministic,
    )
    num_pictures = min(batch_size // strategy.num_replicas_in_sync, LARGEST_PANEL)
    pictures = pipeline.examples(tfrecord_dir, manifest).take(num_pictures)
    monitor = Monitor(log, "val", manifest.class_names, pictures.as_numpy_iterator())
    return functools.partial(evaluate, monitor.on_predictions), monitor


def make_augmentation() -> pipeline.Augmentation:
    """The augmentation that the flags name."""
    return pipeline.Augmentation(
        crop_size=FLAGS.crop_size,
        method=FLAGS.augmentation,
        min_scale=FLAGS.min_scale,
        max_scale=FLAGS.max_scale,
        resize_size=FLAGS.resize_size,
        hue=FLAGS.hue,
        brightness=FLAGS.brightness,
        contrast=FLAGS.contrast,
    )


def resume(checkpoints: Checkpoints, state: TrainingState, plan: trainer.Plan, num_replicas: int) -> None:
    """Restores the newest checkpoint of the run, if it has one, and says what is another since then."""
    path = checkpoints.restore_latest()
    step, replicas_before = int(state.step), int(state.num_replicas)
    state.num_replicas.assign(num_replicas)
    if path is not None:
        logger.info("resuming from %s at step %d", path, step)
        if num_replicas != replicas_before:
            logger.info(
                "replicas: %d instead of %d; each update is that of the same global batch, but its sums round "
                "otherwise and dropout draws other masks",
                num_replicas,
                replicas_before,
            )
    if step >= plan.train_steps:
        logger.info(
            "this run has made %d steps, and %d are asked for; more --train_steps or --epochs go on",
            step,
            plan.train_steps,
        )


if __name__ == "__main__":
    program.run(main, flags.define_train_flags)
