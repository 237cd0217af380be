"""The flags of the network, its initial weights and inference; and the record of a network, `ModelConfig`."""

from dataclasses import asdict, dataclass
from pathlib import Path

from deeplab.errors import UsageError
from deeplab.json_fields import from_fields
from deeplab.labels import ColoredNames
from deeplab.model.conventions import BACKBONES, FAMILIES, KERAS, Backbone, Head
from deeplab.settings import setting

OUTPUT_STRIDES = (8, 16, 32)
BATCH_NORM_MOMENTUM = 0.99
"""Keras's default: the share of the moving statistics that is kept at each step."""

NO_MULTI_GRID = (1, 1, 1)
IMAGENET = "imagenet"
NO_WEIGHTS = "none"


@dataclass(frozen=True)
class ModelConfig:
    """Network.

    All that is needed to build the same network again; `model.json` of a run holds it. `atrous_rates` apply at output
    stride 16; they are doubled at 8 (section 4.1) and halved at 32. `batch_norm_epsilon` applies to the head; the
    backbone keeps the epsilon of its ImageNet weights. `backbone_family` and `head_family` name the conventions that
    the weights were trained with; there is no flag for them, since the weights decide. `class_colors` are those
    of `ColoredNames`.

    Raises:
        UsageError: `multi_grid` is not three numbers, `separable_decoder` without `decoder`, or a family that is not
            known or lacks this backbone.
    """

    class_names: tuple[str, ...] = ()
    backbone: str = setting("resnet50", "Keras application under the ASPP head.", choices=list(BACKBONES))
    output_stride: int = setting(16, "Input size over feature size.", choices=OUTPUT_STRIDES)
    atrous_rates: tuple[int, ...] = setting(
        (6, 12, 18),
        "ASPP rates at output stride 16; doubled at 8, halved at 32. Empty: ASPP without atrous branches.",
        lower=1,
        upper=1000,
        may_be_empty=True,
    )
    separable_aspp: bool = setting(False, "Depthwise separable 3x3 convolutions in ASPP; paper of v3+: yes.")
    decoder: bool = setting(False, "Decoder of DeepLab v3+: refines the features at stride 4.")
    separable_decoder: bool = setting(False, "Depthwise separable 3x3 convolutions in the decoder, as in its paper.")
    multi_grid: tuple[int, ...] = setting(
        NO_MULTI_GRID, "Dilation factors of the last stage's three units (ResNets); paper: 1,2,4.", lower=1, upper=100
    )
    dropout_rate: float = 0.1
    batch_norm_epsilon: float = setting(
        1e-5,  # tensorflow/models, research/deeplab/core/utils.py
        "Added to the variance in the head's batch normalization.",
        lower=1e-12,
    )
    backbone_family: str = KERAS
    head_family: str = KERAS
    class_colors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.multi_grid) != 3:
            text = ",".join(map(str, self.multi_grid))
            raise UsageError(f"--multi_grid={text}: three numbers are needed, as in 1,2,4")
        if self.separable_decoder and not self.decoder:
            raise UsageError("--separable_decoder: needs --decoder")
        for family in (self.backbone_family, self.head_family):
            if family not in FAMILIES:
                raise UsageError(f"no conventions of the name {family!r}; known are {', '.join(FAMILIES)}")
        if self.backbone not in FAMILIES[self.backbone_family].backbones:
            raise UsageError(f"--backbone={self.backbone}: {self.backbone_family} has no weights of it")

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.class_names)

    @property
    def colored_names(self) -> ColoredNames:
        """The classes, for pictures."""
        return ColoredNames(self.class_names, self.class_colors)

    @property
    def architecture(self) -> str:
        """The network's name, by the papers."""
        return "DeepLab v3+" if self.decoder else "DeepLab v3"

    @property
    def backbone_conventions(self) -> Backbone:
        """The conventions that the backbone's weights were trained with."""
        return FAMILIES[self.backbone_family].backbones[self.backbone]

    @property
    def head_conventions(self) -> Head:
        """Those of the weights of what follows the backbone."""
        return FAMILIES[self.head_family].head

    def to_json(self) -> dict[str, object]:
        """Plain lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: object) -> "ModelConfig":
        """The inverse of `to_json`; raises ValueError for fields that do not belong."""
        config = from_fields(cls, fields)
        if not config.class_names:
            raise ValueError("no classes")
        ColoredNames(config.class_names, config.class_colors)  # raises ValueError
        return config


@dataclass(frozen=True)
class InitSettings:
    """Initial weights and batch normalization."""

    backbone_weights: str = setting(
        IMAGENET,
        "imagenet (fetched by Keras on first use), none (random), or a file: of Keras, with or without the top, or of "
        "torchvision or timm, .pth or .safetensors, whose conventions the backbone then takes (docs/weights.md).",
    )
    init_checkpoint: Path | None = setting(
        None,
        "Another run's folder (its best checkpoint) or checkpoint to start from; weights that do not fit are left out.",
    )
    freeze_batch_norm: bool = setting(
        False, "Keep batch normalization's statistics, scale and shift unchanged.", fixed=True
    )
    sync_batch_norm: bool = setting(
        True,
        "Take batch normalization's statistics over all replicas. Without: each replica's own, which is faster and may "
        "do with 8 or more images per GPU; the moving statistics are averaged over replicas.",
    )
    batch_norm_momentum: float = setting(
        BATCH_NORM_MOMENTUM,
        "Share of the moving statistics kept at each step: 0.9 for runs of a few hundred steps; paper: 0.9997.",
        lower=0.0,
        upper=1.0,
    )


@dataclass(frozen=True)
class Inference:
    """Inference.

    The views to average over; the default is one pass over the whole image. The paper's scales are in its table 6.
    """

    scales: tuple[float, ...] = setting(
        (1.0,),
        "Scales to average probabilities over; in the paper 0.5,0.75,1.0,1.25,1.5,1.75.",
        lower=0.1,
        upper=10.0,
        hyperparameter=False,
    )
    flip: bool = setting(False, "Also average over the mirrored image.", hyperparameter=False)
    window_size: int = setting(
        0,
        "Cut larger images into overlapping windows of this many pixels; 0: whole images.",
        lower=0,
        hyperparameter=False,
    )
    window_overlap: float = setting(
        1 / 3, "Share of a window that the next one also covers.", lower=0.0, upper=0.9, hyperparameter=False
    )
    window_batch: int = setting(
        1,
        "Windows of an image that go through the network together: faster on GPUs, equal up to rounding.",
        lower=1,
        hyperparameter=False,
    )

    @property
    def views(self) -> list[tuple[float, bool]]:
        """By scale, and whether they are mirrored."""
        mirrored = (False, True) if self.flip else (False,)
        return [(scale, is_mirrored) for is_mirrored in mirrored for scale in self.scales]
