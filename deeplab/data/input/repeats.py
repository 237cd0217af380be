"""How often an epoch shows each example: images of rare or hard classes may appear several times."""

import logging
from dataclasses import dataclass

import numpy as np

from deeplab.data.input.stored import pixels_by_example
from deeplab.data.shards.split import Split
from deeplab.errors import UsageError
from deeplab.settings import setting

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


@dataclass(frozen=True)
class SamplingSettings:
    """Sampling.

    arXiv 1706.05587, section 4.3, repeats the images of bicycle, chair, dining table, potted plant and sofa.
    """

    repeat_classes: str = setting(
        "", "Classes, as in a,b, whose images appear --repeat_times times in each epoch.", fixed=True
    )
    repeat_times: int = setting(
        2, "Appearances of the images of --repeat_classes in each epoch.", lower=2, upper=1000, fixed=True
    )

    def repeats(self, split: Split) -> Repeats:
        """The split's images that hold any pixel of `repeat_classes`; reads all masks, and logs the counts.

        Raises:
            UsageError: a name that is not one of the split's classes.
        """
        if not self.repeat_classes:
            return NO_REPEATS
        repeated = [name.strip() for name in self.repeat_classes.split(",")]
        if unknown := [name for name in repeated if name not in split.class_names]:
            raise UsageError(
                f"--repeat_classes={self.repeat_classes}: no class {unknown[0]!r}; the classes are "
                f"{', '.join(split.class_names)}"
            )
        logger.info("sampling: reading all masks of %s", split.name)
        names, pixels = pixels_by_example(split)
        held = pixels[:, [split.class_names.index(name) for name in repeated]] > 0
        for name, count in zip(repeated, held.sum(0).tolist(), strict=True):
            logger.info("sampling: %d of %d images hold %s", count, len(names), name)
        repeats = Repeats(tuple(names[index] for index in np.flatnonzero(held.any(1))), self.repeat_times)
        logger.info(
            "sampling: %d images appear %d times in each epoch, which has %d examples",
            len(repeats.names),
            repeats.times,
            split.num_examples + repeats.num_extra,
        )
        return repeats
