"""One HTML page about a data set: images with their masks, possible problems, and the crops for training.

python -m deeplab.look --voc_dir=mydata
python -m deeplab.look --tfrecord_dir=mydata_shards

For a folder in VOC's layout, checks all images and masks as train.py does; the page shows what training will read.
"""

from deeplab.program.start import Program

from deeplab.commands.settings import LookSettings
from deeplab.data.input.settings import AugmentationSettings
from deeplab.data.shards.settings import ShardSettings, SplitSettings
from deeplab.errors import UsageError
from deeplab.settings import Classes, Options, refuse_arguments

SETTINGS: Classes = (LookSettings, ShardSettings, SplitSettings, AugmentationSettings)


def check_flags(options: Options, arguments: list[str]) -> None:
    """Raises UsageError for flags that are missing, and for arguments."""
    refuse_arguments(arguments)
    if not options[ShardSettings].voc_dir and not options[SplitSettings].tfrecord_dir:
        raise UsageError("give --voc_dir, or --tfrecord_dir for shards that exist")


def command() -> None:
    """The program as `deeplab-look` starts it."""
    program = Program(SETTINGS, __doc__, check_flags)  # before TensorFlow is imported, which takes seconds
    from deeplab.commands.look import main  # noqa: PLC0415

    program.run(main)


if __name__ == "__main__":
    command()
