"""The training chain of input_pipeline.py in PyTorch's DataLoader: Pillow and torch operations, two workers.

A separate program, so that torch need not share an environment with TensorFlow: input_pipeline.py starts it with
the files to read, requests a measurement with a line on its standard input, and reads examples/s.
"""

import sys
import time

import numpy as np
import torch
from PIL import Image

CROP = 513
BATCH = 8
MEAN_COLOR = (124, 117, 104)


class Crops(torch.utils.data.Dataset):
    """Random scale 0.5-2.0, crop, flip, hue, brightness and contrast; only the window is resized, as in deeplab."""

    def __init__(self, files: list[tuple[str, str]]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image_file, label_file = self._files[index]
        image = Image.open(image_file).convert("RGB")
        label = Image.open(label_file).copy()
        scale, *place, mirrored, hue, brightness, contrast = torch.rand(7).tolist()
        window = round(CROP / (0.5 + 1.5 * scale))
        left, top = (int(draw * (max(side - window, 0) + 1)) for draw, side in zip(place, image.size, strict=True))
        box = (left, top, min(left + window, image.width), min(top + window, image.height))
        size = (max(round((box[2] - left) * CROP / window), 1), max(round((box[3] - top) * CROP / window), 1))
        image = image.resize(size, Image.Resampling.BILINEAR, box)
        label = label.resize(size, Image.Resampling.NEAREST, box)
        if mirrored < 0.5:
            image, label = (each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in (image, label))
        hues, saturation, value = image.convert("HSV").split()
        turned = Image.fromarray(np.asarray(hues) + np.uint8(round(255 * 0.1 * (2 * hue - 1)) % 256))
        image = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
        pixels = torch.from_numpy(np.array(image)).float()
        pixels = (pixels + 255 * 0.1 * (2 * brightness - 1)).clamp_(0, 255)
        means = pixels.mean((0, 1))
        pixels = ((pixels - means) * (1 + 0.2 * (2 * contrast - 1)) + means).clamp_(0, 255).round_().byte()
        crop = torch.tensor(MEAN_COLOR, dtype=torch.uint8).repeat(CROP, CROP, 1)
        crop[: size[1], : size[0]] = pixels
        labels = torch.full((CROP, CROP), 255, dtype=torch.uint8)
        labels[: size[1], : size[0]] = torch.from_numpy(np.array(label))
        return crop, labels


def main() -> None:
    """Arguments: files, image and mask alternating. Prints examples/s for each line of standard input."""
    files = list(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    print("ready", flush=True)
    for _ in sys.stdin:
        batches = iter(torch.utils.data.DataLoader(Crops(files), BATCH, shuffle=True, num_workers=2, drop_last=True))
        next(batches)
        start = time.perf_counter()
        number = sum(1 for _ in batches)
        print(number * BATCH / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
