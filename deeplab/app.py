"""A page to try a model: drop a picture, see its mask.

python -m deeplab.app --model_dir=runs/voc
python -m deeplab.app --model_dir=exported --tfrecord_dir=shards

--model_dir is the folder of a run or of an export. With --tfrecord_dir, the page offers pictures of a split. Needs
Gradio (docs/app.md). Pictures stay on this machine, and are deleted when the program ends.
"""

from deeplab.program.start import Program

from deeplab.commands.settings import AppSettings
from deeplab.data.shards.settings import SplitSettings
from deeplab.model.settings import Inference
from deeplab.run.settings import LoadSettings
from deeplab.settings import Classes, Options, refuse_arguments, require

SETTINGS: Classes = (AppSettings, SplitSettings, LoadSettings, Inference)


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing, and for arguments."""
    refuse_arguments(arguments)
    require("model_dir", options[AppSettings].model_dir)


def command() -> None:
    """The program as `deeplab-app` starts it."""
    program = Program(SETTINGS, __doc__, check_flags)  # before TensorFlow is imported, which takes seconds
    from deeplab.commands.app.program import main  # noqa: PLC0415

    program.run(main)


if __name__ == "__main__":
    command()
