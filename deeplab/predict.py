"""Segments pictures with a trained model.

python -m deeplab.predict --model_dir=runs/voc --output_dir=predictions IMAGE|FOLDER|'GLOB'|-...
python -m deeplab.predict --model_dir=runs/voc --output_dir=submission --voc_dir=VOC2012 --split=test

`-` is one picture from standard input; it is called stdin. With --truth_dir, masks of the same names (PNG) are shown
next to the predictions. Several processes share one folder by --num_shards, and --skip_existing goes on after an
interruption.
"""

from deeplab.program.start import Program

from deeplab.commands.settings import PredictSettings
from deeplab.errors import UsageError
from deeplab.model.settings import Inference
from deeplab.run.settings import LoadSettings
from deeplab.settings import Classes, Options, require

SETTINGS: Classes = (PredictSettings, LoadSettings, Inference)


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing or do not go together."""
    settings = options[PredictSettings]
    require("model_dir", settings.model_dir)
    require("output_dir", settings.output_dir)
    if settings.voc_dir and settings.truth_dir:
        raise UsageError("--voc_dir writes only masks, for VOC's server, and shows no --truth_dir: give one of them")
    if settings.voc_dir and arguments:
        raise UsageError(f"{arguments[0]}: name images or --voc_dir, not both")


def command() -> None:
    """The program as `deeplab-predict` starts it."""
    program = Program(SETTINGS, __doc__, check_flags)  # before TensorFlow is imported, which takes seconds
    from deeplab.commands.predict.program import main  # noqa: PLC0415

    program.run(main)


if __name__ == "__main__":
    command()
