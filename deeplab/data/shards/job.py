"""A split to prepare, and checks that existing shards match it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab.data.shards import records, sources
from deeplab.data.shards.settings import IGNORE, REFUSE
from deeplab.data.shards.split import Split, manifest_path, name_damaged_shard
from deeplab.data.source import voc
from deeplab.data.source.images import MAX_PIXELS
from deeplab.errors import DataError
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")


@dataclass(frozen=True)
class Job:
    """A split to prepare.

    Attributes:
        name: name of the split.
        folder: folder of its shards.
        voc_dir: the data set, for messages.
        pairs: its examples.
        form: how its examples are stored.
    """

    name: str
    folder: Path
    voc_dir: Path
    pairs: list[voc.Pair]
    form: records.Form

    def source(self, stamps: Sequence[str], num_bad_examples: int) -> str:
        """The fingerprint for the manifest of shards that leave out so many bad examples."""
        tiles = self.form.tiles
        choices = "" if self.form.exif == records.REFUSE else f"\nexif={self.form.exif}"
        choices += f"\ntiles={tiles.size},{tiles.overlap}" if tiles.size else ""
        # Images may be left out because of the limit; where none is, the shards do not depend on it.
        is_limited = num_bad_examples and self.form.max_pixels != MAX_PIXELS
        choices += f"\nmax_pixels={self.form.max_pixels}" if is_limited else ""
        return sources.fingerprint(self.pairs, stamps, self.form.classes, choices)

    @property
    def is_written(self) -> bool:
        """Whether its shards exist."""
        return manifest_path(self.folder, self.name).exists()

    @property
    def sources_path(self) -> Path:
        """The file that records what the shards were made from."""
        return sources.sources_path(self.folder, self.name)

    @property
    def bad_examples_path(self) -> Path:
        """The file that names the examples left out."""
        return self.folder / f"{self.name}.bad_examples.txt"

    def written_split(self, max_bad_examples: int) -> Split:
        """The existing split.

        Raises:
            DataError: as `Split.read`; or it was made from other files or settings, or more than `max_bad_examples`
                were left out.
        """
        split = Split.read(self.folder, self.name)
        if split.class_names != self.form.classes.names:
            theirs = ", ".join(split.class_names)
            ours = ", ".join(self.form.classes.names)
            raise self._error(
                split, f"were made from other files or classes ({theirs}) than those of {self.voc_dir} ({ours})"
            )
        stamps = sources.stamps_of(self.pairs)
        if split.source != self.source(stamps, split.num_bad_examples):
            before = sources.read_sources(self.sources_path)
            changed = sources.compare(self.pairs, stamps, before)[0] if before else []
            example = f", such as {changed[0]}" if changed else ""
            raise self._error(
                split,
                f"were made from other files or classes than those of {self.voc_dir}, split {self.name}{example} (or "
                "with another class table, --exif, --tile_size or --max_pixels)",
            )
        if split.num_bad_examples > max_bad_examples:
            raise DataError(
                f"{self.bad_examples_path}: these shards leave out {split.num_bad_examples} bad examples, more than "
                f"--max_bad_examples={max_bad_examples}; fix them, or raise it"
            )
        if not sources.are_recorded(self.sources_path, self.pairs, stamps):
            self._check_contents(split, stamps)
        return self._with_colors(split)

    def _check_contents(self, split: Split, stamps: Sequence[str]) -> None:
        """Raises DataError if files have other contents than the shards; otherwise records their stamps."""
        before = sources.read_sources(self.sources_path)
        if before is None and self.form.tiles.size:
            raise self._error(split, f"are of tiles, and {self.sources_path.name}, which tells of which files, is gone")
        if before is None:
            with name_damaged_shard([split]):
                changed = list(self._differing_from(split))
                now = sources.current_sources(self.pairs)
        else:
            changed, now = sources.compare(self.pairs, stamps, before)
        if changed:
            others = f"{changed[0]} and {len(changed) - 1} others have" if len(changed) > 1 else f"{changed[0]} has"
            raise self._error(split, f"are out of date: {others} changed since")
        if now != before:
            self._write_sources(now)

    def _with_colors(self, split: Split) -> Split:
        """With the colors of today's class table, on which only pictures depend: the shards stay as they are."""
        if split.class_colors == self.form.classes.shown:
            return split
        split = replace(split, class_colors=self.form.classes.shown)
        try:
            split.write()
        except OSError as error:  # for example, in a folder of another user
            logger.warning("%s: colours stay as they are (%s)", split.manifest_path, error.strerror)
        return split

    def _error(self, split: Split, what: str) -> DataError:
        return DataError(f"{split.manifest_path}: these shards {what}; choose another --tfrecord_dir, or delete them")

    def _write_sources(self, now: sources.Sources) -> None:
        try:
            sources.write_sources(self.sources_path, now)
        except OSError as error:  # for example, in a folder of another user
            logger.warning(
                "%s: cannot be written (%s); the files will be read every time", self.sources_path, error.strerror
            )

    def _differing_from(self, split: Split) -> Iterator[Path]:
        """Files that differ from the shards' contents; for shards without recorded sources."""
        by_name = {pair.name: pair for pair in self.pairs}
        # Older shards, written before --exif existed, store images as `ignore` does.
        form = replace(self.form, exif=IGNORE) if self.form.exif == REFUSE else self.form
        progress = Progress(f"comparing {split.name} with its files", split.num_examples, "images")
        for number, record in enumerate(tf.data.TFRecordDataset(split.shard_paths), 1):
            stored = records.parse_example(record)
            pair = by_name[stored["id"].numpy().decode()]
            try:
                (encoded,) = records.encode_examples(pair, form)
                now = records.parse_example(encoded.record)
            except DataError:
                yield pair.image
                continue
            if stored["image/jpeg"] != now["image/jpeg"]:
                yield pair.image
            if not np.array_equal(records.decode_example(stored)[1], records.decode_example(now)[1]):
                yield pair.mask
            progress.update(number)
        progress.end()
