"""The flags of devices, replicas, precision and seeds."""

from dataclasses import dataclass

from deeplab.settings import setting


@dataclass(frozen=True)
class DeviceSettings:
    """Devices."""

    num_gpus: int | None = setting(None, "GPUs to use; 0 for the CPU. Default: all.", lower=0, hyperparameter=False)
    num_cpu_replicas: int = setting(
        1, "Logical devices to split the CPU into.", lower=1, upper=256, hyperparameter=False
    )


@dataclass(frozen=True)
class StrategySettings:
    """Replicas."""

    strategy: str = setting(
        "auto",
        "tf.distribute strategy. auto: multi_worker if TF_CONFIG or srun names several workers, one_device for "
        "--jit_compile on one GPU, else mirrored.",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
        hyperparameter=False,
    )
    connect_minutes: float = setting(
        15.0, "Most minutes that a start waits for the other workers.", lower=0.0, hyperparameter=False
    )


POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
"""Keras's dtype policy for each compute type."""


@dataclass(frozen=True)
class PrecisionSettings:
    """Precision."""

    precision: str = setting("float32", "Compute type; variables and logits stay float32.", choices=list(POLICIES))


@dataclass(frozen=True)
class SeedSettings:
    """Reproducibility."""

    # Not 0: with 0 as TensorFlow's global seed, Dataset.shuffle fails on a seed that is a tensor.
    seed: int = setting(1, "Seed of weights, order, augmentation and dropout.", lower=1, upper=2**31 - 1)
    deterministic: bool = setting(False, "Same seed and hardware give the same bits; slower.")
