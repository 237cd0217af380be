"""Writes a trained model as a SavedModel that needs only TensorFlow; on request also as ONNX and TensorFlow Lite.

python -m deeplab.export --model_dir=runs/voc --export_dir=exported
python -m deeplab.export --model_dir=runs/voc --export_dir=exported --onnx --tflite photo1.jpg photo2.jpg
python -m deeplab.export --model_dir=runs/voc --export_dir=exported --tflite_int8 --tfrecord_dir=data/voc_shards
python -m deeplab.export --model_dir=runs/voc --export_dir=exported --tflite --input_size=384,512

Images on the command line are segmented with the written files and with the model; the share of equal pixels is logged.
With --input_size they are resized to it.
"""

from deeplab.program.start import Program

from deeplab.commands.settings import ExportSettings, Interface
from deeplab.data.shards.settings import SplitSettings
from deeplab.run.settings import LoadSettings
from deeplab.settings import Classes, Options, require

SETTINGS: Classes = (ExportSettings, Interface, SplitSettings, LoadSettings)


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing."""
    require("model_dir", options[ExportSettings].model_dir)
    require("export_dir", options[ExportSettings].export_dir)


def command() -> None:
    """The program as `deeplab-export` starts it."""
    program = Program(SETTINGS, __doc__, check_flags)  # before TensorFlow is imported, which takes seconds
    from deeplab.commands.export.program import main  # noqa: PLC0415

    program.run(main)


if __name__ == "__main__":
    command()
