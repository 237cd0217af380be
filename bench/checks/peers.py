"""Published networks against the packages that published them: logits, gradients, masks, scores, exports.

python bench/checks/peers.py [--networks=torchvision/deeplabv3_resnet50,...] [--voc_dir=VOC2012 --work_dir=NEW]

Needs torch, torchvision, segmentation-models-pytorch and safetensors beside TensorFlow; with --voc_dir also the extra
`export`. Each network has random weights with calibrated batch normalization.

Without --voc_dir, on random images of three sizes, two at a time: the largest difference of the logits as a share of
the largest logit, the share of equal classes, and the pixels that differ although their best two classes are no tie;
and the difference of the gradients of one step with frozen normalization.

With --voc_dir: the weights are saved to a file and imported, and the images of the split val are segmented by
deeplab.predict, the library and ONNX Runtime, and scored by eval.py, each against the peer's own masks.
"""

from deeplab.program.start import Program

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import segmentation_models_pytorch as smp
import tensorflow as tf
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import segmentation

from deeplab.api import load
from deeplab.data.source.images import read_image
from deeplab.data.source.voc import split_images
from deeplab.errors import DataError
from deeplab.model.deeplabv3 import build_deeplabv3, freeze_batch_norm, without_auxiliary_head
from deeplab.model.published.files import read_tensors
from deeplab.model.published.recognition import recognize
from deeplab.model.published.transfer import leaves, transfer
from deeplab.settings import Classes, Options, require, setting

logger = logging.getLogger("deeplab")

SIZES = ((129, 129), (500, 375), (97, 160))
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
CLASSIFIER = ("classifier.4", "segmentation_head.0")
"""The last layer in torchvision and in segmentation-models-pytorch."""
TIE = 2e-4
"""Of the largest logit: where the best two classes are nearer, rounding decides."""

_SEGMENTATION = {"weights": None, "weights_backbone": None, "aux_loss": True}
_ENCODER = {"encoder_weights": None, "classes": 21}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision/deeplabv3_resnet50": lambda: segmentation.deeplabv3_resnet50(**_SEGMENTATION),
    "torchvision/deeplabv3_resnet101": lambda: segmentation.deeplabv3_resnet101(**_SEGMENTATION),
    "torchvision/deeplabv3_mobilenet_v3_large": lambda: segmentation.deeplabv3_mobilenet_v3_large(**_SEGMENTATION),
    "smp/DeepLabV3_resnet50": lambda: smp.DeepLabV3("resnet50", **_ENCODER),
    "smp/DeepLabV3_resnet101": lambda: smp.DeepLabV3("resnet101", **_ENCODER),
    "smp/DeepLabV3Plus_resnet50": lambda: smp.DeepLabV3Plus("resnet50", **_ENCODER),
    "smp/DeepLabV3Plus_resnet101": lambda: smp.DeepLabV3Plus("resnet101", **_ENCODER),
}


@dataclass(frozen=True)
class PeersSettings:
    """What to compare."""

    networks: str = setting(",".join(NETWORKS), "Networks, separated by commas.")
    voc_dir: Path | None = setting(None, "Folder in VOC layout: also compare masks, mIoU and the ONNX export on it.")
    work_dir: Path | None = setting(None, "Folder for the files of --voc_dir; it must not exist.")


SETTINGS: Classes = (PeersSettings,)


def main(options: Options, arguments: list[str]) -> None:
    """Prints a line for each network, size and output."""
    wanted = options[PeersSettings]
    for name in wanted.networks.split(","):
        peer = calibrated(NETWORKS[name]())
        if wanted.voc_dir is not None:
            compare_as_user(name, peer, wanted.voc_dir, require("work_dir", wanted.work_dir) / name.replace("/", "_"))
            continue
        ours = imported(peer)
        for height, width in SIZES:
            compare_logits(name, peer, ours, random_images(height, width))
        compare_gradients(name, peer, ours, random_images(97, 129))


def calibrated(peer: nn.Module) -> nn.Module:
    """Random weights, and the statistics of normalization that belong to them.

    What a residual block adds is small, as in trained networks: float32 rounds the gradients of others by up to 3 %.
    """
    torch.manual_seed(0)
    for name, module in peer.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            if name.endswith("bn3"):
                module.weight.data *= 0.2
    peer.train()
    with torch.no_grad():
        for height, width in ((160, 128), (128, 192), (192, 192)):
            outputs_of(peer, random_images(height, width, number=6))
        peer.eval()

        # Every class is as likely as the others, so that the masks have many.
        logits = outputs_of(peer, random_images(256, 256, number=6))[0]
        classifier = dict(peer.named_modules())[CLASSIFIER[isinstance(peer, smp.base.SegmentationModel)]]
        deviation = logits.std((0, 2, 3))
        classifier.bias -= logits.mean((0, 2, 3))
        classifier.bias /= deviation
        classifier.weight /= deviation[:, None, None, None]
    return peer


def imported(peer: nn.Module) -> keras.Model:
    """The same network here, with its auxiliary head."""
    tensors = {key: value.numpy() for key, value in peer.state_dict().items()}
    found = recognize(tensors, None, "peer")
    model = build_deeplabv3(found.config, auxiliary_head=found.has_auxiliary_head)
    transfer(model, tensors, found.names, "peer")
    return model


def random_images(height: int, width: int, number: int = 2) -> np.ndarray:
    """Waves of different lengths and colors, and noise: uint8 [number, height, width, 3]."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width][:, np.newaxis, :, :, np.newaxis]
    lengths, brightness, contrast = (
        rng.uniform(*limits, (number, 1, 1, 3)) for limits in ((5, 60), (60, 200), (20, 90))
    )
    waves = brightness + contrast * np.sin(y / lengths + x / lengths[..., ::-1])
    return np.clip(waves + rng.normal(0, 15, waves.shape), 0, 255).astype(np.uint8)


def outputs_of(peer: nn.Module, images: np.ndarray) -> list[torch.Tensor]:
    """The peer's logits [batch, classes, height, width], and those of its auxiliary head if it has one."""
    height, width = images.shape[1:3]
    dtype = next(peer.parameters()).dtype
    inputs = (torch.tensor(images).permute(0, 3, 1, 2).to(dtype) / 255 - MEAN) / DEVIATION
    if isinstance(peer, smp.base.SegmentationModel):  # it refuses sides that are no multiples of the output stride
        stride = peer.encoder.output_stride
        return [peer(F.pad(inputs, (0, -width % stride, 0, -height % stride)))[:, :, :height, :width]]
    results = peer(inputs)
    return [results["out"], results["aux"]]


def compare_logits(name: str, peer: nn.Module, ours: keras.Model, images: np.ndarray) -> None:
    """Prints how far the logits differ, as in the module's docstring."""
    with torch.no_grad():
        expected = [logits.permute(0, 2, 3, 1).numpy() for logits in outputs_of(peer, images)]
    results = keras.tree.flatten(ours(images, training=False))
    for kind, logits, right in zip(("logits", "auxiliary"), results, expected, strict=False):
        scale = np.abs(right).max()
        best = np.sort(right, -1)
        is_tie = best[..., -1] - best[..., -2] < TIE * scale
        is_equal = np.argmax(logits, -1) == right.argmax(-1)
        print(
            f"{name} {images.shape[1]}x{images.shape[2]} {kind}: {np.abs(logits - right).max() / scale:.1e}, "
            f"{is_equal.mean():.6f} equal, {(~is_equal & ~is_tie).sum()} unequal outside ties",
            flush=True,
        )


def compare_gradients(name: str, peer: nn.Module, ours: keras.Model, images: np.ndarray) -> None:
    """Prints how far the gradients of one step with frozen normalization are from the peer's in float64.

    The norm of the difference as a share of the gradient's norm, of all weights together and of the worst of them, and
    the same for the peer's own gradients in float32.
    """
    blocks = np.random.default_rng(1).integers(0, 21, (len(images), 20, 20))
    labels = blocks.repeat(16, 1).repeat(16, 2)[:, : images.shape[1], : images.shape[2]]
    own = gradients_of_peer(peer, images, labels)
    right = gradients_of_peer(peer.double(), images, labels)

    freeze_batch_norm(ours)
    network = without_auxiliary_head(ours)
    for layer in leaves(network):
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, network(images, training=True))
        loss = tf.reduce_mean(losses)
    variables = network.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    here = {variable.path: gradient.numpy() for variable, gradient in zip(variables, gradients, strict=True)}
    for whose, results in (("ours", here), ("the peer's own in float32", own)):
        errors = {path: np.linalg.norm(results[path] - right[path]) for path in here}
        norms = {path: np.linalg.norm(right[path]) for path in here}
        worst = max(here, key=lambda path: errors[path] / norms[path])
        total = np.linalg.norm([*errors.values()]) / np.linalg.norm([*norms.values()])
        print(
            f"{name}: gradients of {len(here)} weights, {whose}: {total:.1e}; the worst, {worst}: "
            f"{errors[worst] / norms[worst]:.1e}",
            flush=True,
        )


def gradients_of_peer(peer: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """By the paths of the variables here, with their axes; without dropout."""
    for module in peer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    peer.zero_grad()
    F.cross_entropy(outputs_of(peer, images)[0], torch.tensor(labels)).backward()
    gradients = {key: value.grad.numpy() for key, value in peer.named_parameters() if value.grad is not None}

    # Put in the place of the weights, they get their names and axes.
    state = {key: gradients.get(key, value.numpy()) for key, value in peer.state_dict().items()}
    found = recognize(state, None, "peer")
    holder = build_deeplabv3(found.config, auxiliary_head=found.has_auxiliary_head)
    transfer(holder, state, found.names, "peer")
    return {variable.path: variable.numpy() for variable in holder.weights}


def compare_as_user(name: str, peer: nn.Module, voc_dir: Path, folder: Path) -> None:
    """The commands of a user, one after the other, against the peer's own masks."""
    folder.mkdir(parents=True)
    save_file(peer.state_dict(), folder / "weights.safetensors")
    torch.save(peer.state_dict(), folder / "weights.pth")
    run(["-m", "deeplab.import_weights", f"{folder}/weights.pth", f"--model_dir={folder}/run"])
    same = [read_tensors(folder / f"weights.{ending}") for ending in ("pth", "safetensors")]
    if not all(np.array_equal(same[0][key], same[1][key]) for key in same[0].keys() | same[1].keys()):
        raise DataError(f"{folder}: .pth and .safetensors differ")

    images = split_images(voc_dir, "val")
    right = dict(peer_masks(peer, images))
    shards = ["train.py", f"--voc_dir={voc_dir}", f"--tfrecord_dir={folder}/shards", "--prepare_only"]
    run(shards)
    run(
        [
            "-m",
            "deeplab.predict",
            f"--model_dir={folder}/run",
            f"--output_dir={folder}/masks",
            *(str(p) for _, p in images),
        ]
    )
    run(["eval.py", f"--model_dir={folder}/run", f"--tfrecord_dir={folder}/shards", f"--output_dir={folder}/eval"])
    run(["-m", "deeplab.export", f"--model_dir={folder}/run", f"--export_dir={folder}/export", "--onnx"])

    import onnxruntime  # noqa: PLC0415  an extra

    session = onnxruntime.InferenceSession(folder / "export" / "model.onnx", providers=["CPUExecutionProvider"])
    print(f"| {name}: image | equal to the peer's: predict | ONNX Runtime | library |\n| --- | --- | --- | --- |")
    model = load(folder / "run")
    for key, path in images:
        pixels = read_image(path)
        (classes, *_) = session.run(None, {session.get_inputs()[0].name: pixels[np.newaxis]})
        ours = [np.asarray(Image.open(folder / "masks/masks" / f"{key}.png")), classes[0], model.segment(pixels)]
        print(
            f"| {key} {pixels.shape[0]}x{pixels.shape[1]} |", *(f"{(each == right[key]).mean():.6f} |" for each in ours)
        )
    scored = json.loads((folder / "eval/metrics.json").read_text())["mean_iou"]
    print(f"{name}: mIoU {scored:.6f} by eval.py, {mean_iou(voc_dir, right):.6f} from the peer's masks", flush=True)


def run(arguments: list[str]) -> None:
    """Runs a program of the project; its own words go to standard error."""
    subprocess.run([sys.executable, *arguments], check=True, timeout=3000)


def peer_masks(peer: nn.Module, images: list[tuple[str, Path]]) -> Iterator[tuple[str, np.ndarray]]:
    """The classes of each image, each at its own size."""
    for key, path in images:
        with torch.no_grad():
            yield key, outputs_of(peer, read_image(path)[np.newaxis])[0][0].argmax(0).numpy()


def mean_iou(voc_dir: Path, masks: dict[str, np.ndarray]) -> float:
    """Over the classes in truth or prediction, void left out."""
    confusion = np.zeros((21, 21), np.int64)
    for key, mask in masks.items():
        truth = np.asarray(Image.open(voc_dir / "SegmentationClass" / f"{key}.png"))
        np.add.at(confusion, (truth[truth != 255], mask[truth != 255]), 1)
    intersection = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return float((intersection[union > 0] / union[union > 0]).mean())


if __name__ == "__main__":
    Program(SETTINGS, __doc__).run(main)
