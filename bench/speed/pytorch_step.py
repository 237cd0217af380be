"""A training step of DeepLab v3 on ResNet-50 in PyTorch, for comparison in bench/speed/step.py.

A separate program, so that torch need not share an environment with TensorFlow. Arguments: precision, batch size, image
size, output stride, steps per measurement. It prints seconds per step for each line of standard input. The network is
that of tests/golden/deeplabv3_torch.py (arXiv 1706.05587) with trainable weights, in channels-last layout.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

NUM_CLASSES = 21
BLOCKS = (3, 4, 6, 3)


def conv_bn(
    inputs: int, outputs: int, size: int = 1, stride: int = 1, dilation: int = 1, bias: bool = True
) -> nn.Module:
    """Convolution and batch normalisation."""
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=bias), nn.BatchNorm2d(outputs, eps=1.001e-5)
    )


class Bottleneck(nn.Module):
    """ResNet's residual unit, strides in the first 1x1."""

    def __init__(self, inputs: int, filters: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.shortcut = conv_bn(inputs, 4 * filters, stride=stride) if project else nn.Identity()
        self.units = nn.Sequential(
            conv_bn(inputs, filters, stride=stride),
            nn.ReLU(inplace=True),
            conv_bn(filters, filters, 3, dilation=dilation),
            nn.ReLU(inplace=True),
            conv_bn(filters, 4 * filters),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] -> the same with 4 x filters channels."""
        return F.relu(self.shortcut(x) + self.units(x), inplace=True)


class DeepLabV3(nn.Module):
    """Images [batch, 3, height, width] -> logits at their size."""

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            conv_bn(3, 64, 7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        channels = 64
        reached = 4
        dilation = 1
        for stage, blocks in enumerate(BLOCKS):
            stride = 1
            if stage and reached < output_stride:
                stride = 2
                reached = 2 * reached
            elif stage:
                dilation *= 2
            for block in range(blocks):
                filters = 64 * 2**stage
                layers.append(Bottleneck(channels, filters, stride if block == 0 else 1, dilation, block == 0))
                channels = 4 * filters
        self.backbone = nn.Sequential(*layers)
        rates = [rate * 16 // output_stride for rate in (6, 12, 18)]
        self.branches = nn.ModuleList(
            [conv_bn(channels, 256, bias=False), *(conv_bn(channels, 256, 3, dilation=r, bias=False) for r in rates)]
        )
        self.pooled = conv_bn(channels, 256, bias=False)
        self.project = conv_bn(5 * 256, 256, bias=False)
        self.logits = nn.Conv2d(256, NUM_CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 logits."""
        features = self.backbone(x)
        branches = [F.relu(branch(features)) for branch in self.branches]
        pooled = F.relu(self.pooled(features.mean((2, 3), keepdim=True)))
        branches.append(pooled.expand(-1, -1, *features.shape[2:]))
        features = F.dropout(F.relu(self.project(torch.cat(branches, 1))), 0.1, self.training)
        logits = self.logits(features).float()
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


def main() -> None:
    """Seconds per step for each line of standard input."""
    precision = sys.argv[1]
    (batch, size, stride, steps) = map(int, sys.argv[2:])
    model = DeepLabV3(stride).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    images = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (batch, size, size))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(images)
            F.cross_entropy(logits, labels, ignore_index=255).backward()
            optimizer.step()
        print((time.perf_counter() - start) / steps, flush=True)


if __name__ == "__main__":
    main()
