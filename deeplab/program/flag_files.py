"""Files of flags (`--flagfile`), as various editors and shells write them: absl's own reader knows one encoding."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deeplab.errors import DataError, UsageError
from deeplab.text import read_lines

_FLAG_FILE = re.compile(r"--?flagfile(?:=(?P<path>.*))?")
_QUOTED = re.compile(r"(?P<name>--?\w+=|)(?P<quote>[\"'])(?P<value>.*)(?P=quote)")
_COMMENTS = ("#", "//")


def with_files_read(arguments: Sequence[str], parents: tuple[Path, ...] = ()) -> Iterator[str]:
    """The arguments, with the flags of each file in the place of its `--flagfile=FILE`, up to a `--`.

    A line of a file is one flag, without the quotes that a shell would remove; blank lines and those that begin with #
    or // are left out. Files may name others, but not those that name them (`parents`).

    Raises:
        UsageError: a file that cannot be read, or names itself.
    """
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            yield argument
            break
        found = _FLAG_FILE.fullmatch(argument)
        if found is None:
            yield argument
            continue
        given = found["path"] if found["path"] is not None else next(remaining, None)
        if not given:
            raise UsageError("--flagfile: needs a file")
        path = Path(given).expanduser()
        if path in parents:
            raise UsageError(f"--flagfile={given}: names itself, in a circle")
        yield from with_files_read(_flags_in(path), (*parents, path))
    yield from remaining


def _flags_in(path: Path) -> list[str]:
    try:
        lines = read_lines(path, "flags")
    except DataError as error:
        raise UsageError(f"--flagfile={error}") from error
    flags = [line for line in lines if line and not line.startswith(_COMMENTS)]
    return [_QUOTED.sub(r"\g<name>\g<value>", line) if _QUOTED.fullmatch(line) else line for line in flags]
