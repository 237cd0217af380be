"""DeepLab v3 and v3+ on ResNets in PyTorch, float64, written from the papers for this comparison; writes `logits.npz`.

    pip install torch && python tests/golden/deeplabv3_torch.py

Sources: arXiv 1706.05587 (atrous ResNet, section 3.1; ASPP with image pooling, section 3.3), arXiv 1802.02611 (the
decoder, section 3.1, and separable convolutions), arXiv 1512.03385 (ResNet), and for what they leave open the settings
that Keras's ImageNet weights were trained with: strides in the first 1x1 of a stage, biases, epsilon 1.001e-5, BGR
minus mean. It shares only the drawn weights with `deeplab/`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from draw import draw, image

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
STRIDES = (8, 16, 32)
MULTI_GRIDS = ((1, 1, 1), (1, 2, 4))
DECODERS = ("decoder", "separable")
NUM_CLASSES = 5
HEIGHT, WIDTH = 321, 257
SAMPLE = 7
"""Logits are stored for every SAMPLE-th row and column, and as means over all pixels."""


def variable(path, shape):
    values = torch.tensor(draw(path, shape), dtype=torch.float64)
    return values.permute(3, 2, 0, 1) if len(shape) == 4 else values


def conv(x, name, filters, size=1, stride=1, dilation=1, bias=True):
    kernel = variable(f"{name}/kernel", (size, size, x.shape[1], filters))
    shift = variable(f"{name}/bias", (filters,)) if bias else None
    return F.conv2d(x, kernel, shift, stride=stride, dilation=dilation, padding=dilation * (size // 2))


def batch_norm(x, name, epsilon):
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    return F.batch_norm(x, *(variable(f"{name}/{each}", (x.shape[1],)) for each in names), eps=epsilon)


def bottleneck(x, name, filters, stride, dilation, project):
    def norm(x, number):
        return batch_norm(x, f"{name}_{number}_bn", 1.001e-5)

    shortcut = norm(conv(x, f"{name}_0_conv", 4 * filters, stride=stride), 0) if project else x
    y = F.relu(norm(conv(x, f"{name}_1_conv", filters, stride=stride), 1))
    y = F.relu(norm(conv(y, f"{name}_2_conv", filters, 3, dilation=dilation), 2))
    return F.relu(shortcut + norm(conv(y, f"{name}_3_conv", 4 * filters), 3))


def backbone(x, name, output_stride, multi_grid):
    x = x.flip(1) - torch.tensor([103.939, 116.779, 123.68], dtype=x.dtype).view(1, 3, 1, 1)
    x = F.relu(batch_norm(conv(x, "conv1_conv", 64, 7, stride=2), "conv1_bn", 1.001e-5))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    reached, dilation = 4, 1
    for stage, blocks in enumerate(BLOCKS[name], 2):
        stride = 1
        if stage == 3:
            low_level = x
        if stage > 2 and reached < output_stride:
            stride, reached = 2, 2 * reached
        elif stage > 2:
            dilation *= 2
        for block in range(1, blocks + 1):
            grid = multi_grid[block - 1] if stage == 5 else 1
            x = bottleneck(
                x,
                f"conv{stage}_block{block}",
                64 * 2 ** (stage - 2),
                stride if block == 1 else 1,
                dilation * grid,
                block == 1,
            )
    return x, low_level


def branch(x, name, size, rate=1, filters=256, separable=False):
    """Convolution, normalisation, ReLU; or these for a depthwise convolution and then for a 1x1."""
    if separable:
        kernel = variable(f"{name}_depthwise/kernel", (size, size, x.shape[1], 1)).transpose(0, 1)
        x = F.conv2d(x, kernel, dilation=rate, padding=rate * (size // 2), groups=x.shape[1])
        x = F.relu(batch_norm(x, f"{name}_depthwise_bn", 1e-5))
        size = rate = 1
    return F.relu(batch_norm(conv(x, f"{name}_conv", filters, size, dilation=rate, bias=False), f"{name}_bn", 1e-5))


def aspp(x, output_stride, separable=False):
    branches = [branch(x, "aspp_1x1", 1)]
    for number, rate in enumerate((6, 12, 18), 1):
        branches.append(branch(x, f"aspp_3x3_{number}", 3, rate * 16 // output_stride, separable=separable))
    pooled = branch(x.mean((2, 3), keepdim=True), "aspp_pooled", 1)
    branches.append(pooled.expand(-1, -1, *x.shape[2:]))
    return branch(torch.cat(branches, 1), "aspp_project", 1)


def decoder(x, low_level, output_stride, separable):
    low_level = branch(low_level, "decoder_low_level", 1, filters=48)
    x = torch.cat([upsample(x, output_stride // 4, *low_level.shape[2:]), low_level], 1)
    for number in (1, 2):
        x = branch(x, f"decoder_3x3_{number}", 3, separable=separable)
    return x


def upsample(logits, output_stride, height, width):
    """Feature i lies over pixel `output_stride * i`; between them linear, beyond the last one constant."""
    rows, columns = (size / output_stride for size in (torch.arange(height), torch.arange(width)))
    y = 2 * rows / (logits.shape[2] - 1) - 1
    x = 2 * columns / (logits.shape[3] - 1) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None].to(logits.dtype)
    return F.grid_sample(logits, grid, mode="bilinear", padding_mode="border", align_corners=True)


def deeplabv3(pixels, name, output_stride, multi_grid=(1, 1, 1), head=None):
    """uint8 [height, width, 3] -> logits, float64 [height, width, NUM_CLASSES], and the features' size."""
    x = torch.tensor(pixels, dtype=torch.float64).permute(2, 0, 1)[None]
    features, low_level = backbone(x, name, output_stride, multi_grid)
    separable = head == "separable"
    x, stride = aspp(features, output_stride, separable), output_stride
    if head:
        x, stride = decoder(x, low_level, output_stride, separable), 4
    full = upsample(conv(x, "logits", NUM_CLASSES), stride, *pixels.shape[:2])
    return full[0].permute(1, 2, 0).numpy(), tuple(features.shape[2:])


def main():
    cases = {}
    for name in BLOCKS:
        for output_stride in STRIDES:
            for grid in MULTI_GRIDS:
                cases[f"{name}/{output_stride}/{','.join(map(str, grid))}"] = (name, output_stride, grid)
    for output_stride in (8, 16):
        for head in DECODERS:
            cases[f"resnet50/{output_stride}/{head}"] = ("resnet50", output_stride, (1, 1, 1), head)
    arrays = {}
    for key, case in cases.items():
        logits, size = deeplabv3(image(HEIGHT, WIDTH), *case)
        print(key, "features", size, "logits", logits.min(), "to", logits.max())
        arrays[f"{key}/sample"] = logits[::SAMPLE, ::SAMPLE].astype(np.float32)
        arrays[f"{key}/mean"] = logits.mean((0, 1))
    np.savez_compressed(Path(__file__).with_name("logits.npz"), **arrays)


if __name__ == "__main__":
    sys.exit(main())
