"""Copies of a trained model, one for each GPU, so that as many images, or bands of one, are segmented at a time."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from deeplab.api import Model
from deeplab.distribute.gpus import enable_memory_growth


class OnDevice:
    """A model that computes on a device, in any thread.

    Args:
        device: its name.
        load: makes the model.
    """

    def __init__(self, device: str, load: Callable[[], Model]) -> None:
        self._device = device
        with tf.device(device):
            self._model = load()

    @property
    def class_names(self) -> tuple[str, ...]:
        """By index."""
        return self._model.class_names

    @property
    def window_size(self) -> int:
        """As of `Model`."""
        return self._model.window_size

    def segment(self, image: np.ndarray) -> np.ndarray:
        """As of `Model`."""
        with tf.device(self._device):
            return self._model.segment(image)

    def segment_band(self, image: np.ndarray, index: int, number: int) -> np.ndarray:
        """As of `Model`."""
        with tf.device(self._device):
            return self._model.segment_band(image, index, number)


def on_all_devices(load: Callable[[], Model], most: int | None) -> list[OnDevice]:
    """A model for each GPU, else for each logical CPU device, which is one unless somebody splits the CPU.

    Args:
        load: makes a model on the default device.
        most: no more than this many, as where there are few images.
    """
    enable_memory_growth()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [OnDevice(device.name, load) for device in devices[:most]]
