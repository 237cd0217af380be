"""The colors of classes in pictures to look at: VOC's for its classes, else some that color-blind people tell apart."""

from collections.abc import Sequence

import numpy as np

from deeplab.data.source import voc
from deeplab.labels import ColoredNames, foreground, palette

_SAFE = bytes.fromhex(
    "0000ffffe1007869b4695a001e695ae1b45a6969ffd2c3ffa59669e178a55a2da569a5ff5a3c69f0690f3c2dd22d5a2dc3f0964b3c87"
    "ffb4d2ffe169c3783ca596d2ffb42d5a69d2e12d78e19696d2b478b469a5a5002d69784b4b4bd2ff69ff694bffd2a5d2a5a52d3c8778"
    "a53c5affd2ff78e196964b87c3000f005a3cc300a5a55a2d4b2df05aa54bd2e1788787d2e1c34bc35a0ff0a5b46900b45a87e1f0875a"
    "f0e14b5ad2c35a78f0693c5ac3a5f0784b963cb48769e1a55a3c78e1c37887e1e16969c3b4699678874be178b45a4bc3f0963c693c1e"
    "ff6969f03c784bb4c3d2a5e1962de178f0ffa50f3c5a2d96e1a51ee1d200b47887b469b4e12de11e69874bd2b43c00e14b782d8787c3"
    "b4f0a587961ec3a578a596e11e3cc34b5af01e5aa5ffc3691e694b96e187005a4b0f876996f0d2c31e8787c387f087a500ffc35a4bb4"
    "784b6978875a3c963c78ff1ea51e4b2d7869b4963c78f0e14b9687ff0f1e96781ea55a96b43c1e875a3cffa53c870f69781e87ff5a2d"
    "d2b4ff5a3cf0784b78d2b4695ae1f03ca5b4b4b44bc35a3c2dff4b5ab496ff1ea57896ffc396c396001e0096785ac3e1872d0fc33c69"
    "a569ff69e1d26900ff6978e1780fe1693c96ff4b5a963c1effb4c3c37896c33cd25a5ab496e169b4f0b42db45aa50fa5003cb4ffb496"
    "ff4b87e1c3f0b41e78c30f5ad22dc3870f78f02d695aa5f05ac3b4d2a569871e3c78d287b478a5f03c4b87d2965a78d22dc3f000c3d2"
    "f096a5c3f087ffa5c3a54b96d20f00d2d23c6969e17878c33c87ff780fc3e14b5a0fe15a4b5ae1a51eb44bc3a54b3cd25a87b41ee1c3"
    "c33ca52d3ce1e1878778783c78e14bd269d2783c2d78d2d2c396786996f04bb4ffff782d78d2e1e18796e178e1783c878796c3b42d2d"
    "0f9696871e4b00f0b4a52d964bff5a87872da51ec3d2874b00b4b4780fb4c35a1e873c3c5a9669a5005ad278f087c33cffc3a5f03c87"
    "784bd2b41e4b3c1ed22df0a55aff96a5c3f0f0e15a783c696969f0782dff69e17878f0f00069c3a52d0087f078f0785a0087c31e7878"
    "e13c00ff964be1c300"
)
"""From bench/docs/safe_colors.py, three bytes each: the first ones are farthest apart."""


def class_colors(class_names: Sequence[str]) -> np.ndarray:
    """uint8 [256, 3] RGB, by class index; a background is black, and void (255) is VOC's cream.

    Colors of `ColoredNames` come first. Mask files keep VOC's palette, whatever the classes are: programs read it.
    """
    colors = palette()
    if tuple(class_names) != voc.CLASS_NAMES:
        drawn = foreground(class_names)
        colors[drawn] = np.frombuffer(_SAFE, np.uint8).reshape(-1, 3)[: len(drawn)]
    if isinstance(class_names, ColoredNames):
        for index, given in enumerate(class_names.colors):
            if given:
                colors[index] = tuple(bytes.fromhex(given.removeprefix("#")))
    return colors
