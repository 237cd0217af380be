"""How often an epoch shows each example: images of rare or hard classes may appear several times."""

import logging
from dataclasses import dataclass

import numpy as np

from deeplab.data.input.settings import SamplingSettings
from deeplab.data.input.stored import pixels_by_example
from deeplab.data.shards.split import Split
from deeplab.errors import UsageError

logger = logging.getLogger("deeplab")


@dataclass(frozen=True)
class Repeats:
    """Names of examples that appear `times` times in each epoch; all others appear once."""

    names: tuple[str, ...] = ()
    times: int = 1

    @property
    def num_extra(self) -> int:
        """How many more examples an epoch has than the split."""
        return len(self.names) * (self.times - 1)


NO_REPEATS = Repeats()


def find_repeats(settings: SamplingSettings, split: Split) -> Repeats:
    """The split's images that hold any pixel of `repeat_classes`; reads all masks, and logs the counts.

    Raises:
        UsageError: a name that is not one of the split's classes.
    """
    if not settings.repeat_classes:
        return NO_REPEATS
    repeated = [name.strip() for name in settings.repeat_classes.split(",")]
    if unknown := [name for name in repeated if name not in split.class_names]:
        raise UsageError(
            f"--repeat_classes={settings.repeat_classes}: no class {unknown[0]!r}; the classes are "
            f"{', '.join(split.class_names)}"
        )
    logger.info("sampling: reading all masks of %s", split.name)
    names, pixels = pixels_by_example(split)
    held = pixels[:, [split.class_names.index(name) for name in repeated]] > 0
    for name, count in zip(repeated, held.sum(0).tolist(), strict=True):
        logger.info("sampling: %d of %d images hold %s", count, len(names), name)
    repeats = Repeats(tuple(names[index] for index in np.flatnonzero(held.any(1))), settings.repeat_times)
    logger.info(
        "sampling: %d images appear %d times in each epoch, which has %d examples",
        len(repeats.names),
        repeats.times,
        split.num_examples + repeats.num_extra,
    )
    return repeats
