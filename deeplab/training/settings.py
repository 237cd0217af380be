"""The flags of the loss, the optimizer, the schedule and the step; those of the plan are in `plan`."""

import logging
from dataclasses import dataclass

from deeplab.errors import UsageError
from deeplab.settings import setting

logger = logging.getLogger("deeplab")


LOSSES = ("cross_entropy", "dice", "cross_entropy_dice")


@dataclass(frozen=True)
class LossSettings:
    """Loss."""

    loss: str = setting("cross_entropy", "Loss; cross_entropy_dice is the textbook's sum of both.", choices=LOSSES)
    class_weights: str = setting(
        "none",
        "Weights of the cross-entropy: none; inverse_frequency or median_frequency of the training split; numbers as "
        "in 1,2.5; or a file with a line for each class: its weight, or its name and weight.",
    )
    label_smoothing: float = setting(
        0.0, "Share of each target that is spread over all classes.", lower=0.0, upper=0.99
    )
    focal_gamma: float = setting(0.0, "Focal loss: cross-entropy times (1 - probability) ** this; 0: none.", lower=0.0)
    hard_pixel_fraction: float = setting(
        1.0,
        "Hard-pixel mining: count only this share of each image's valid pixels, those with the largest cross-entropy.",
        lower=1e-6,
        upper=1.0,
    )
    auxiliary_weight: float = setting(
        0.0,
        "Weight of the loss of an auxiliary head on the last stage but one; 0: no such head.",
        lower=0.0,
        fixed=True,
    )

    def __post_init__(self) -> None:
        if self.loss == "dice":
            for name in ("class_weights", "label_smoothing", "focal_gamma", "hard_pixel_fraction"):
                if getattr(self, name) != getattr(LossSettings, name):
                    raise UsageError(f"--{name}: acts only on the cross-entropy, which --loss=dice leaves out")


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer."""

    optimizer: str = setting("sgd", "Optimizer.", choices=("sgd", "adam", "adamw"), fixed=True)
    learning_rate: float = setting(0.007, "Peak learning rate.", lower=0.0)
    scale_learning_rate_from: int | None = setting(
        None,
        "Batch size for which --learning_rate is meant; it is multiplied by --global_batch_size / this.",
        lower=1,
    )
    backbone_learning_rate_factor: float = setting(
        1.0,
        "Factor of the backbone's learning rate and weight decay, to fine-tune gently, such as 0.1; 0 freezes the "
        "backbone with its statistics, which saves time and memory.",
        lower=0.0,
        fixed=True,
    )
    momentum: float = setting(0.9, "Momentum of sgd.", lower=0.0, upper=1.0)
    weight_decay: float = setting(1e-4, "L2 on kernels (sgd, adam), or decoupled decay (adamw).", lower=0.0)
    ema_momentum: float = setting(
        0.0,
        "Share that a moving average of the weights keeps per step, such as 0.999; the averaged weights are scored and "
        "kept as the best. 0: no average.",
        lower=0.0,
        upper=0.999999,
        fixed=True,
    )

    @property
    def l2(self) -> float:
        """The L2 factor of the loss; 0 if the optimizer decays the weights itself."""
        return 0.0 if self.optimizer == "adamw" else self.weight_decay

    def peak_learning_rate(self, global_batch_size: int) -> float:
        """The learning rate, scaled to the batch size if `scale_learning_rate_from` is set."""
        if not self.scale_learning_rate_from:
            return self.learning_rate
        scaled = self.learning_rate * global_batch_size / self.scale_learning_rate_from
        logger.info(
            "learning rate %g for batch size %d is %g for batch size %d",
            self.learning_rate,
            self.scale_learning_rate_from,
            scaled,
            global_batch_size,
        )
        return scaled


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning-rate schedule."""

    schedule: str = setting(
        "polynomial",
        "Learning rate over the steps; polynomial has power 0.9.",
        choices=("constant", "polynomial", "cosine"),
    )
    warmup_steps: int = setting(0, "Steps of linear warm-up.", lower=0)


@dataclass(frozen=True)
class StepSettings:
    """Training step."""

    accumulate_steps: int = setting(
        1, "Split each batch into this many micro-batches, run one after another; saves memory.", lower=1, upper=2**16
    )
    clip_norm: float = setting(0.0, "Largest norm of the whole gradient of the global batch; 0: no limit.", lower=0.0)
    jit_compile: bool = setting(False, "Compile the step with XLA; only on one GPU.")
    recompute: bool = setting(
        False,
        "Keep few features for the gradient and compute the others again: the same update, with less memory and more "
        "time (docs/measurements.md).",
    )

    def __post_init__(self) -> None:
        if self.recompute and self.jit_compile:
            raise UsageError("--recompute: not with --jit_compile; XLA merges what is computed twice")
