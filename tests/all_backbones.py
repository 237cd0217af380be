"""The backbones that tests go through, weights under which each layer shows, and the biases that folding removes."""

import numpy as np
import tensorflow as tf

from deeplab.model import backbone

NAMES = [name for name in backbone.BACKBONES if name not in ("resnet101", "resnet152")]


def _randomize(model, seed=0):
    """Sets weights, including batch-normalisation statistics, that make every layer's effect visible."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(0, 1, variable.shape) / max(1, np.prod(variable.shape[:-1])) ** 0.5
        positive = variable.path.endswith(("gamma", "moving_variance"))
        variable.assign(1 + 0.2 * np.abs(value) if positive else value)


def _open_gates(model):
    """Makes squeeze-and-excitation independent of the mean over the image."""
    for layer in model.layers:
        if layer.name.endswith(("_se_expand", "_squeeze_excite_conv_1")):
            layer.kernel.assign(tf.zeros(layer.kernel.shape))


def resnet_biases(*blocks):
    """The biases of Keras's ResNets: three in a block, and one in the shortcut of the first of a stage."""
    return 64 + sum(number * 6 * width + 4 * width for number, width in zip(blocks, (64, 128, 256, 512), strict=True))
