"""Which pictures the command line names, under which names their masks are written, and which are this process's."""

import glob
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deeplab.data.source.images import ENDINGS
from deeplab.errors import DataError, UsageError

logger = logging.getLogger("deeplab")

STANDARD_INPUT = Path("-")

Named = tuple[str, Path]
"""The name of an image's pictures, without an ending, and its file."""


def named_images(arguments: list[str], written: Sequence[Path] = ()) -> list[Named]:
    """Names and images on the command line: files, folders, patterns, or `-` for standard input.

    A folder stands for all images below it; their names include subfolders, as in day1/img_0. Other files are left out
    and counted by ending. Hidden files are skipped (macOS leaves `._photo.jpg` next to `photo.jpg`), and so is what is
    in the folders `written`.

    Raises:
        DataError: a folder or pattern without images, or with none but in `written`.
        UsageError: no images, or two whose masks would have the same name.
    """
    images: list[Named] = []
    outputs = [folder.resolve() for folder in written]
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = _images_below(path)
        elif glob.has_magic(argument) and not path.exists():
            matches = map(Path, sorted(glob.glob(argument, recursive=True)))  # noqa: PTH207
            found = [(file.stem, file) for file in matches if file.is_file() and not _is_hidden(file)]
        else:
            found = [("stdin" if path == STANDARD_INPUT else path.stem, path)]
        if not found:
            raise DataError(f"{argument}: no pictures there")
        others = [(name, file) for name, file in found if not any(map(file.resolve().is_relative_to, outputs))]
        if not others:
            raise DataError(f"{argument}: no pictures there other than in folders that this program writes")
        images += others
    if not images:
        raise UsageError("name at least one image, a folder, or --voc_dir and --split")
    seen: dict[str, Path] = {}
    for name, path in images:
        if name in seen:
            raise UsageError(
                f"{name}: two images of this name would be written to one file: {seen[name]} and {path}; segment them "
                "separately, or name the folder above both"
            )
        seen[name] = path
    return images


def _images_below(folder: Path) -> list[Named]:
    """The images below a folder, in order, with their names; logs how many other files there are, by ending."""
    images = []
    others: Counter[str] = Counter()
    for file in _files_below(folder):
        if file.suffix.lower() in ENDINGS:
            images.append((file.relative_to(folder).with_suffix("").as_posix(), file))
        else:
            others[file.suffix.lower() or "without an ending"] += 1
    if others:
        kinds = ", ".join(f"{number} {ending}" for ending, number in sorted(others.items()))
        logger.warning("%s: left out, as their endings are not those of images: %s", folder, kinds)
    return images


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files below a folder that are not hidden, in order, also where links lead, but in no folder below itself."""
    real = folder.resolve()
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if _is_hidden(path):
            continue
        if path.is_dir():
            yield from _files_below(path, (*above, real))
        else:
            yield path


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def share_of(images: list[Named], index: int | None, number: int, environment: Mapping[str, str]) -> list[Named]:
    """Every `number`-th image from `index` on; without an index, from the number of the task in Slurm's job array.

    All processes must be given the same images; each image is then one process's, so that no two write one file.

    Raises:
        UsageError: no index and no job array, one of another number of tasks, or an index beyond the last.
    """
    if index is None and number > 1:
        index = _index_in_array(number, environment)
    index = index or 0
    if index >= number:
        raise UsageError(f"--shard_index={index}: the last of --num_shards={number} is {number - 1}")
    return images[index::number]


def _index_in_array(number: int, environment: Mapping[str, str]) -> int:
    """The position of this task in Slurm's job array (sbatch --array), from 0 on."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT")]
    values = [environment.get(name, "") for name in names]
    if not all(map(str.isdecimal, values)):
        raise UsageError(f"--num_shards={number}: which one is this? give --shard_index, or start a Slurm job array")
    task, first, last, count = map(int, values)
    if count != number or last - first + 1 != number:
        raise UsageError(
            f"--num_shards={number}: the job array has {count} tasks, {first} to {last}; give --shard_index"
        )
    return task - first
