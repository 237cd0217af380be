"""Whether probabilities mean what they say: the curve of accuracy by confidence, and its expected error."""

from dataclasses import dataclass

import numpy as np

NUM_BINS = 16
"""Of the curve; equally wide, as in Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599."""

SIDE = 32
NUM_FINE = SIDE * SIDE // 2
"""Bins that are counted. Each pixel's confidence is taken as the middle of its bin: off by at most 0.001."""


@dataclass(frozen=True)
class Calibration:
    """Of the labeled pixels of an evaluation.

    Attributes:
        expected_error: the mean difference between confidence and accuracy over bins, weighted by their pixels; a
            fraction, None without labeled pixels.
        curve: (mean confidence, accuracy, pixels) of each bin that has pixels.
    """

    expected_error: float | None
    curve: tuple[tuple[float, float, int], ...]

    @classmethod
    def of(cls, counts: np.ndarray) -> "Calibration":
        """From the counts of `metrics.confidence_counts`, int64 [2, 512]."""
        middles = (np.arange(NUM_FINE) + 0.5) / NUM_FINE
        bins = counts.reshape(2, NUM_BINS, -1)
        pixels = bins.sum((0, 2))
        confidence = (bins.sum(0) * middles.reshape(NUM_BINS, -1)).sum(1)
        right = bins[1].sum(1)
        curve = [
            (float(confidence[index] / pixels[index]), float(right[index] / pixels[index]), int(pixels[index]))
            for index in np.flatnonzero(pixels)
        ]
        total = int(pixels.sum())
        error = float(np.abs(confidence - right).sum() / total) if total else None
        return cls(error, tuple(curve))
