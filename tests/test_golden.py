"""The whole network against stored logits of another implementation (golden/), weights drawn by name on both sides."""

import re
import sys

import keras
import numpy as np
import pytest
from conftest import GOLDEN

from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.settings import ModelConfig

sys.path.insert(0, str(GOLDEN))
from draw import draw, image

HEIGHT, WIDTH, SAMPLE, NUM_CLASSES = 321, 257, 7, 5  # as in golden/deeplabv3_torch.py


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "logits.npz") as arrays:
        return dict(arrays)


def _logits(backbone, output_stride, **head):
    config = ModelConfig(("a", "b", "c", "d", "e"), backbone, output_stride, **head)
    model = build_deeplabv3(config)
    for variable in model.weights:
        if variable.path.endswith("seed_generator_state"):
            continue
        name = "/".join(variable.path.split("/")[-2:])
        value = draw(name, variable.shape)
        if re.fullmatch(r"conv\d.*_bn/moving_mean", name):  # the other implementation has biases before it
            value -= draw(name.replace("_bn/moving_mean", "_conv/bias"), variable.shape)
        variable.assign(value)
    return model(image(HEIGHT, WIDTH)[np.newaxis], training=False)[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("multi_grid", [(1, 1, 1), (1, 2, 4)])
def test_logits_equal_those_of_an_independent_implementation(golden, backbone, output_stride, multi_grid):
    logits = _logits(backbone, output_stride, multi_grid=multi_grid)
    _assert_equal(logits, golden, f"{backbone}/{output_stride}/{','.join(map(str, multi_grid))}")


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("head", ["decoder", "separable"])
def test_logits_of_v3_plus_equal_those_of_an_independent_implementation(golden, output_stride, head):
    separable = head == "separable"
    logits = _logits("resnet50", output_stride, decoder=True, separable_decoder=separable, separable_aspp=separable)
    _assert_equal(logits, golden, f"resnet50/{output_stride}/{head}")


def _assert_equal(logits, golden, key):
    assert logits.shape == (HEIGHT, WIDTH, NUM_CLASSES)
    scale = np.abs(golden[f"{key}/sample"]).max()
    difference = np.abs(logits[::SAMPLE, ::SAMPLE] - golden[f"{key}/sample"]).max() / scale
    mean_difference = np.abs(logits.mean((0, 1), np.float64) - golden[f"{key}/mean"]).max() / scale
    print(f"{key}: {difference:.1e} of the largest logit, means {mean_difference:.1e}")
    assert difference < 1e-4
    assert mean_difference < 1e-4
    keras.backend.clear_session()


def test_the_comparison_would_notice_another_dilation(golden):
    """Any two cases of one backbone differ by far more than the tolerance."""
    samples = [golden[key] for key in golden if key.startswith("resnet50") and key.endswith("sample")]
    for index, one in enumerate(samples):
        for other in samples[index + 1 :]:
            assert np.abs(one - other).max() / np.abs(one).max() > 0.02
