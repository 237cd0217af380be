"""A backbone of five convolutions beside the others: a program traces its step with it in seconds.

python tests/tiny.py PROGRAM.py FLAGS...     starts a program that knows --backbone=tiny
"""

import deeplab.program.start  # noqa: F401  before TensorFlow, as in all programs

# isort: split
import runpy
import sys

import keras

from deeplab.model.conventions import BACKBONES, Backbone


def build(include_top, weights):
    """A convolution with normalisation for each of the strides 2 to 32, in place of a Keras application."""
    assert (include_top, weights) == (False, None)
    features = images = keras.Input((None, None, 3))
    for number, filters in enumerate((8, 8, 16, 16, 32)):
        features = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"pad{number}")(features)  # as the mobile networks
        features = keras.layers.Conv2D(filters, 3, strides=2, use_bias=False, name=f"conv{number}")(features)
        features = keras.layers.BatchNormalization(name=f"norm{number}")(features)
        features = keras.layers.ReLU(name=f"relu{number}")(features)
    return keras.Model(images, features, name="tiny")


TINY = Backbone(
    build,
    preprocess_input=lambda images: images / 128.0 - 1.0,
    unit_pattern=None,
    auxiliary_layer="relu3",
    low_level_layer="relu1",
    first_center=lambda output_stride: output_stride - 1,
)


def register():
    """Makes it a value of --backbone, before the settings of the network are imported, which `conventions` does not."""
    BACKBONES["tiny"] = TINY


if __name__ == "__main__":
    register()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
