"""Chooses the colors of `deeplab/view/colors.py`: far apart for people with normal, protanope and deuteranope eyes.

python bench/docs/safe_colors.py

Each color is the one that is farthest from all before it, to the eyes that tell them least apart, in CIELAB. The
simulation is that of Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
Deficiency", IEEE TVCG 15(6), 2009: its matrices of severity 1.0, for linear RGB. Prints the colors as hexadecimal
digits, and the smallest difference among the first 8, 11, 20 and 32.
"""

import itertools

import numpy as np

NUM_COLORS = 255
GIVEN = ("000000", "ffffff", "e0e0c0")
"""Background, white of the pages, VOC's void: no class may look like them."""

EYES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
)
"""Linear sRGB to CIE XYZ, D65 (IEC 61966-2-1)."""


def lab(colors: np.ndarray, eye: str = "normal") -> np.ndarray:
    """SRGB colors (uint8 [..., 3]) as an eye sees them, in CIELAB (float [..., 3])."""
    encoded = colors / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ EYES[eye].T, 0, 1)
    relative = seen @ _TO_XYZ.T / _TO_XYZ.sum(1)
    x, y, z = np.moveaxis(
        np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116), -1, 0
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The distance in CIELAB (Delta E 1976) to the eyes that tell the colors least apart: uint8 [..., 3] -> [...]."""
    return np.min([np.linalg.norm(lab(first, eye) - lab(second, eye), axis=-1) for eye in EYES], 0)


def smallest_difference(colors: np.ndarray) -> float:
    """Among all pairs of colors, uint8 [count, 3]."""
    return min(float(difference(one, other)) for one, other in itertools.combinations(colors, 2))


def choose(count: int) -> np.ndarray:
    """The colors, uint8 [count, 3]."""
    levels = np.arange(0, 256, 15)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3).astype(np.uint8)
    given = np.array([list(bytes.fromhex(color)) for color in GIVEN], np.uint8)

    # Neither dark nor pale nor gray, as photos are.
    lightness, *chroma = np.moveaxis(lab(candidates), -1, 0)
    candidates = candidates[(lightness > 30) & (lightness < 90) & (np.hypot(*chroma) >= 25)]

    farthest = np.min([difference(candidates, color) for color in given], 0)
    chosen = []
    for _ in range(count):
        chosen.append(candidates[np.argmax(farthest)])
        farthest = np.minimum(farthest, difference(candidates, chosen[-1]))
    return np.array(chosen)


def main() -> None:
    """Prints the table and its differences."""
    colors = choose(NUM_COLORS)
    print(colors.tobytes().hex())
    for count in (8, 11, 20, 32):
        print(f"the first {count}: {smallest_difference(colors[:count]):.1f}")


if __name__ == "__main__":
    main()
