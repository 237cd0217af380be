"""Makes a run of a DeepLab that others have trained: for predict, eval.py, export, and to train on from.

python -m deeplab.import_weights deeplabv3_resnet50_coco-cd0a2569.pth --model_dir=runs/coco
python -m deeplab.import_weights model.safetensors --class_names=names.txt --model_dir=runs/mine
python -m deeplab.import_weights deeplabv3_mnv2_pascal_train_aug/model.ckpt-30000 --model_dir=runs/mobile

The file is of torchvision (deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large), of
segmentation-models-pytorch (DeepLabV3 and DeepLabV3Plus on ResNet-50, 101 and 152), or a checkpoint of
tensorflow/models, research/deeplab, on MobileNetV2. What it holds is recognized by its tensors. docs/weights.md has
what was checked.
"""

from deeplab.program.start import Program

from deeplab.commands.settings import ImportSettings
from deeplab.errors import UsageError
from deeplab.run.settings import LoadSettings
from deeplab.settings import Classes, Options, require

SETTINGS: Classes = (ImportSettings, LoadSettings)


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing, and unless one file is named."""
    require("model_dir", options[ImportSettings].model_dir)
    if len(arguments) != 1:
        raise UsageError("name one file of weights, or the checkpoint of TensorFlow, before or after the flags")


def command() -> None:
    """The program as `deeplab-import-weights` starts it."""
    program = Program(SETTINGS, __doc__, check_flags)  # before TensorFlow is imported, which takes seconds
    from deeplab.commands.import_weights import main  # noqa: PLC0415

    program.run(main)


if __name__ == "__main__":
    command()
