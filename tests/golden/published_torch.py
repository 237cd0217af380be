"""Writes published.npz and the small files of PyTorch beside it, by the packages that published the networks.

python tests/golden/published_torch.py      needs torch, torchvision, segmentation-models-pytorch and timm

For each network the names and shapes of its tensors and, for weights drawn by name, a sample of its logits; for each
classifier a digest of its names and shapes.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision.models as classifiers
from draw import draw_torch, image
from torchvision.models import segmentation

HERE = Path(__file__).parent
HEIGHT, WIDTH, SAMPLE, NUM_CLASSES = 65, 96, 5, 5
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_WEIGHTS = {"weights": None, "weights_backbone": None, "num_classes": NUM_CLASSES, "aux_loss": True}
NETWORKS = {
    "torchvision/resnet50": lambda: segmentation.deeplabv3_resnet50(**NO_WEIGHTS),
    "torchvision/resnet101": lambda: segmentation.deeplabv3_resnet101(**NO_WEIGHTS),
    "torchvision/mobilenet_v3_large": lambda: segmentation.deeplabv3_mobilenet_v3_large(**NO_WEIGHTS),
    "smp/DeepLabV3": lambda: smp.DeepLabV3("resnet50", encoder_weights=None, classes=NUM_CLASSES),
    "smp/DeepLabV3Plus": lambda: smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=NUM_CLASSES),
}
CLASSIFIERS = {
    "resnet50": classifiers.resnet50,
    "resnet101": classifiers.resnet101,
    "resnet152": classifiers.resnet152,
    "mobilenet_v2": classifiers.mobilenet_v2,
    "mobilenet_v3_large": classifiers.mobilenet_v3_large,
    "efficientnet_v2_s": classifiers.efficientnet_v2_s,
}


def main():
    arrays = {}
    pixels = (image(HEIGHT, WIDTH) / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)
    for key, make in NETWORKS.items():
        network = make().eval()
        state = network.state_dict()
        network.load_state_dict(
            {name: torch.tensor(draw_torch(name, tuple(each.shape))) for name, each in state.items()}
        )
        inputs = torch.tensor(pixels).permute(2, 0, 1)[None]
        if key.startswith("smp"):  # it takes only multiples of the output stride
            stride = network.encoder.output_stride
            inputs = torch.nn.functional.pad(inputs, (0, -WIDTH % stride, 0, -HEIGHT % stride))
        with torch.no_grad():
            outputs = network(inputs)
        outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
        arrays[f"{key}/tensors"] = np.array([f"{name} {tuple(each.shape)}" for name, each in state.items()])
        for name, logits in outputs.items():
            logits = logits[0, :, :HEIGHT, :WIDTH].permute(1, 2, 0).numpy()
            arrays[f"{key}/{name}"] = logits[::SAMPLE, ::SAMPLE]
            print(key, name, float(np.abs(logits).max()), logits.std())
    for key, make in CLASSIFIERS.items():
        arrays[f"classifier/{key}"] = np.array(digest(make(weights=None).state_dict()))
    assert digest(timm.create_model("resnet50").state_dict()) == arrays["classifier/resnet50"]
    np.savez_compressed(HERE / "published.npz", **arrays)
    write_files()


def digest(state):
    """Of what is not counters or the classifier of images."""
    is_kept = re.compile(r"(?!fc\.|classifier\.).*(?<!num_batches_tracked)").fullmatch
    lines = sorted(f"{name} {tuple(each.shape)}" for name, each in state.items() if is_kept(name))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_files():
    """Tensors of all kinds, one of them a view, as a training script wraps them; the legacy form; another pickle."""
    state = torch.nn.Linear(2, 3).state_dict()
    state["weight"] = torch.arange(6.0).reshape(2, 3).t()
    state["bias"] = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    state["half"] = torch.tensor([0.5, -2.0], dtype=torch.float16)
    state["brain"] = torch.tensor([0.5, -2.0], dtype=torch.bfloat16)
    state["count"] = torch.tensor(7)
    state["none"] = torch.zeros(0, 4)
    torch.save({"model": state, "epoch": 3, "optimizer": {"lr": 0.1}}, HERE / "weights.pth")
    torch.save(state, HERE / "weights_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 3), HERE / "module.pth")


if __name__ == "__main__":
    main()
