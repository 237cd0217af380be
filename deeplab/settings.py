"""Settings: fields of frozen dataclasses that are also the command-line flags of the same names.

A setting is declared once, in the module that uses it:

    @dataclass(frozen=True)
    class LossSettings:
        \"\"\"Loss.\"\"\"

        focal_gamma: float = setting(0.0, "Focal loss: cross-entropy times (1 - probability) ** this.", lower=0.0)

A program passes its classes to `define` and gets their objects from `read`. A field without `setting` is no flag: its
value is computed by the program and passed to `read`. Checks between fields belong in the class's `__post_init__`.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from deeplab.errors import UsageError

FLAGS = flags.FLAGS
Settings = TypeVar("Settings")
Classes = Sequence[type]
Value = Any  # of a flag: str, bool, int, float, list of str, or None


@dataclass(frozen=True)
class _Setting:
    help: str
    lower: float | None
    upper: float | None
    choices: tuple
    fixed: bool
    compared: bool
    column: bool


def setting(  # one parameter for each property of a flag
    default: Value,
    help: str,
    *,
    lower: float | None = None,
    upper: float | None = None,
    choices: Sequence = (),
    fixed: bool = False,
    compared: bool = True,
    column: bool = False,
) -> Any:  # noqa: ANN401  dataclasses.field is typed so, too
    """A dataclass field that is a flag.

    Args:
        default: of the field and the flag; for a tuple of numbers a tuple, for a path None.
        help: one or two sentences.
        lower: smallest value allowed; of each number in a tuple.
        upper: largest value allowed.
        choices: the only values allowed, strings or integers.
        fixed: whether a checkpoint depends on it, so that a run cannot be resumed with another value.
        compared: whether it is a hyperparameter, that is, changes what is learnt.
        column: whether it has its own column in TensorBoard's table of runs.
    """
    marks = _Setting(help, lower, upper, tuple(choices), fixed, compared, column)
    return dataclasses.field(default=default, metadata={"setting": marks})


def define(classes: Classes, flag_values: flags.FlagValues = FLAGS) -> None:
    """Registers a flag for each setting of the classes."""
    for field, marks, kind, is_list in all_settings(classes):
        about = {"flag_values": flag_values, "module_name": __name__}
        default = ",".join(map(str, field.default)) if is_list and field.default is not None else field.default
        if is_list:
            flags.DEFINE_list(field.name, default, marks.help, **about)
        elif marks.choices:
            default = None if default is None else str(default)
            flags.DEFINE_enum(field.name, default, [str(choice) for choice in marks.choices], marks.help, **about)
        elif kind is bool:
            flags.DEFINE_bool(field.name, default, marks.help, **about)
        elif kind in (int, float):
            define_number = flags.DEFINE_integer if kind is int else flags.DEFINE_float
            define_number(field.name, default, marks.help, marks.lower, marks.upper, **about)
        else:
            flags.DEFINE_string(field.name, default, marks.help, **about)


def read(cls: type[Settings], **computed: object) -> Settings:
    """The object of a settings class with the values of the parsed flags; `computed` gives the fields that are none.

    Raises:
        UsageError: a list flag that is not a list of numbers in range, or what the class's `__post_init__` refuses.
    """
    values = {
        field.name: _convert(field.name, FLAGS[field.name].value, marks, kind, is_list)
        for field, marks, kind, is_list in all_settings([cls])
    }
    return cls(**values, **computed)


class Options:
    """The settings objects of a program, by their class: `options[LossSettings]`.

    Fields that the program computes must have a default; `dataclasses.replace` sets them later.

    Raises:
        UsageError: as `read`.
    """

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._objects = {cls: read(cls) for cls in classes}

    def __getitem__(self, cls: type[Settings]) -> Settings:
        return self._objects[cls]

    def as_flagfile(self) -> str:
        """The flags with their values, one per line, as text for --flagfile."""
        parsed = [FLAGS[field.name] for field, *_ in all_settings(self._classes)]
        return "".join(f"{flag.serialize()}\n" for flag in parsed if flag.value is not None)

    def hyperparameters(self) -> dict[str, Value]:
        """What runs are compared by: the columns, and in `others` all other hyperparameters not at their default.

        Values are strings, numbers or booleans.
        """
        columns, others = {}, []
        for field, marks, *_ in all_settings(self._classes):
            flag = FLAGS[field.name]
            if marks.column:
                columns[field.name] = flag.value
            elif marks.compared and flag.value != flag.default:
                others.append(flag.serialize())
        return columns | {"others": " ".join(others)}

    def fixed_names(self) -> frozenset[str]:
        """Names of the settings that a checkpoint depends on."""
        return frozenset(field.name for field, marks, *_ in all_settings(self._classes) if marks.fixed)


def all_settings(classes: Classes) -> Iterator[tuple[dataclasses.Field, _Setting, type, bool]]:
    """(field, marks, type of the value or of a list's items, whether it is a list) of each setting."""
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if marks := field.metadata.get("setting"):
                hint = hints[field.name]
                if isinstance(hint, types.UnionType):  # X | None
                    hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
                is_list = typing.get_origin(hint) is tuple
                yield field, marks, typing.get_args(hint)[0] if is_list else hint, is_list


def _convert(name: str, value: Value, marks: _Setting, kind: type, is_list: bool) -> Value:
    if is_list:
        return None if value is None else _numbers(name, value, marks, kind)
    if kind is Path:  # an empty one takes back what a flag file sets
        return Path(value).expanduser() if value else None
    return kind(value) if value is not None and marks.choices else value


def _numbers(name: str, items: list[str], marks: _Setting, kind: type) -> tuple:
    try:
        values = tuple(kind(item) for item in items)
    except ValueError:
        values = ()
    lower, upper = (-math.inf if marks.lower is None else marks.lower), (math.inf if marks.upper is None else marks.upper)
    if not values or not all(lower <= value <= upper for value in values):
        words = f"{'whole ' * (kind is int)}numbers {f'from {lower:g} to {upper:g}' if upper < math.inf else 'above 0'}"
        raise UsageError(f"--{name}={','.join(items)}: {words} are needed, separated by commas")
    return values


def require(settings: object, *names: str) -> None:
    """Raises UsageError for a setting that has no default and was not given."""
    for name in names:
        if not getattr(settings, name):
            raise UsageError(f"--{name} is needed")
