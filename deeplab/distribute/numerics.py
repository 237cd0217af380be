"""How a program computes: precision, seeds, and whether the same run gives the same bits."""

import os
from dataclasses import dataclass

import keras
import tensorflow as tf
from tensorflow.python.eager import context

from deeplab.settings import setting

PERSISTENT_BATCH_NORM = "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT"
"""TensorFlow reads this environment variable when it first runs a batch normalisation."""

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@dataclass(frozen=True)
class PrecisionSettings:
    """Precision."""

    precision: str = setting(
        "float32", "Compute type; variables and logits stay float32.", choices=list(_POLICIES), column=True
    )


@dataclass(frozen=True)
class SeedSettings:
    """Reproducibility."""

    # Not 0: with 0 as TensorFlow's global seed, Dataset.shuffle fails on a seed that is a tensor.
    seed: int = setting(1, "Seed of weights, order, augmentation and dropout.", lower=1, upper=2**31 - 1, column=True)
    deterministic: bool = setting(False, "Same seed and hardware give the same bits; slower.")


def set_precision(settings: PrecisionSettings) -> None:
    """Sets Keras's dtype policy, and for half precisions cuDNN's kernels of batch normalisation that read NHWC.

    Without those, TensorFlow transposes to NCHW and back around each batch normalisation on a GPU. The caveat is
    cuDNN's: an input with a range too large for their scaled integer sums gives values that are not finite, which ends
    a run with an error. `TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT=0` in the environment keeps the slower kernels.
    Call it before the first operation on a GPU.
    """
    keras.config.set_dtype_policy(_POLICIES[settings.precision])
    if settings.precision != "float32":
        os.environ.setdefault(PERSISTENT_BATCH_NORM, "1")


def set_seed(settings: SeedSettings) -> None:
    """Sets all seeds and, if requested, TensorFlow's deterministic kernels and a fixed order of its sums."""
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
        _keep_order_of_sums()


def _keep_order_of_sums() -> None:
    """Turns off the graph optimizer that, to save memory, adds tensors in the order in which they become ready.

    See docs/design.md, deterministic sums. It sets a private field, since `set_experimental_options` has no key for it;
    the call without options only makes functions drop their cached options.
    """
    config = context.context()._config or tf.compat.v1.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.memory_optimization = rewriting.NO_MEM_OPT
    context.context()._config = config
    tf.config.optimizer.set_experimental_options({})
