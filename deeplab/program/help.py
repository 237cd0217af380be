"""The text of --help."""

import textwrap
from collections.abc import Iterator

from absl import flags

from deeplab.settings import Classes, all_settings, define

LONGEST_LINE = 100
_INDENT = " " * 6


def help_text(docstring: str, classes: Classes, width: int = LONGEST_LINE) -> str:
    """The text of --help: the program's docstring, then its flags, grouped by their classes; lines up to `width`."""
    lines = [docstring.strip()]
    for cls, group in flags_by_class(classes):
        lines += ["", f"{title(cls)}:"]
        for flag in group:
            default = f" (default: {default_of(flag)})" if default_of(flag) else ""
            lines.append(f"  --{'[no]' if flag.boolean else ''}{flag.name}")
            lines += textwrap.wrap(
                f"{flag.help}{default}",
                width,
                initial_indent=_INDENT,
                subsequent_indent=_INDENT,
                break_on_hyphens=False,
                break_long_words=False,
            )
    return "\n".join([*lines, "", "--flagfile=FILE reads flags from a file, one per line."])


def flags_by_class(classes: Classes) -> Iterator[tuple[type, list[flags.Flag]]]:
    """Each class with its flags at their defaults, regardless of the command line."""
    defined = flags.FlagValues()
    define(classes, defined)
    for cls in classes:
        yield cls, [defined[each.name] for each in all_settings([cls])]


def default_of(flag: flags.Flag) -> str:
    """The default as the command line would give it, numbers to four digits; empty if there is none."""
    if isinstance(flag.default, float):
        return f"{flag.default:.4g}"
    return "" if flag.default is None else (flag.default_as_str or "").strip("'")


def title(cls: type) -> str:
    """The first line of a settings class's docstring."""
    return (cls.__doc__ or cls.__name__).splitlines()[0].rstrip(".")
