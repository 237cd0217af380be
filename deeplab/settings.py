"""Settings: fields of frozen dataclasses that are also the command-line flags of the same names.

A setting is declared once, in `settings.py` of its room, which does without TensorFlow: flags are parsed before
TensorFlow is imported.

    @dataclass(frozen=True)
    class LossSettings:
        \"\"\"Loss.\"\"\"

        focal_gamma: float = setting(0.0, "Focal loss: cross-entropy times (1 - probability) ** this.", lower=0.0)

A program passes its classes to `define` and gets their objects from `Options`. A field without `setting` is not a flag;
the program computes its value. Checks across fields belong in the class's `__post_init__`.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from deeplab.errors import UsageError

FLAGS = flags.FLAGS
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters or more: `C:/` is a path
Settings = TypeVar("Settings")
Given = TypeVar("Given")
Classes = Sequence[type]
Value = Any  # of a flag: str, bool, int, float, list of str, or None


@dataclasses.dataclass(frozen=True)
class Setting:
    """The declaration of a setting.

    Attributes:
        kind: type of its value, or of the items of a tuple.
        lower, upper: the smallest and the largest value allowed; for a tuple, of each item.
        choices: the only values allowed, strings or integers.
        fixed: a checkpoint depends on it, so a run cannot be resumed with another value.
        hyperparameter: it changes what the model learns.
        may_be_empty: a tuple may have no items.
    """

    name: str
    default: Value
    kind: type
    is_tuple: bool
    help: str
    lower: float | None = None
    upper: float | None = None
    choices: Sequence = ()
    fixed: bool = False
    hyperparameter: bool = True
    may_be_empty: bool = False


def setting(
    default: Value,
    help: str,
    *,
    lower: float | None = None,
    upper: float | None = None,
    choices: Sequence = (),
    fixed: bool = False,
    hyperparameter: bool = True,
    may_be_empty: bool = False,
) -> Any:  # noqa: ANN401  as dataclasses.field
    """A dataclass field that is a flag.

    Args:
        default: default of the field and the flag; a tuple for a tuple of numbers, None for a path.
        help: one or two sentences.
        lower: the smallest value allowed.
        upper: the largest value allowed.
        choices: the only values allowed.
        fixed: whether a checkpoint depends on it.
        hyperparameter: whether it changes what the model learns.
        may_be_empty: whether a tuple may have no items.
    """
    marks = {"lower": lower, "upper": upper, "choices": choices, "fixed": fixed, "hyperparameter": hyperparameter}
    marks |= {"may_be_empty": may_be_empty}
    return dataclasses.field(default=default, metadata={"setting": {"help": help, **marks}})


def all_settings(classes: Classes) -> Iterator[Setting]:
    """The settings of the classes, in order."""
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if "setting" in field.metadata:
                hint = hints[field.name]
                if isinstance(hint, types.UnionType):  # X | None
                    hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
                is_tuple = typing.get_origin(hint) is tuple
                kind = typing.get_args(hint)[0] if is_tuple else hint
                yield Setting(field.name, field.default, kind, is_tuple, **field.metadata["setting"])


def define(classes: Classes, flag_values: flags.FlagValues = FLAGS) -> None:
    """Registers a flag for each setting of the classes."""
    for each in all_settings(classes):
        common: dict[str, Any] = {"flag_values": flag_values, "module_name": __name__, "help": each.help}
        if each.is_tuple:
            default = None if each.default is None else ",".join(map(str, each.default))
            flags.DEFINE_list(each.name, default, **common)
        elif each.choices:
            default = None if each.default is None else str(each.default)
            flags.DEFINE_enum(each.name, default, [*map(str, each.choices)], **common)
        elif each.kind is bool:
            flags.DEFINE_bool(each.name, each.default, **common)
        elif each.kind in (int, float):
            define_number: Any = flags.DEFINE_integer if each.kind is int else flags.DEFINE_float
            define_number(each.name, each.default, lower_bound=each.lower, upper_bound=each.upper, **common)
        else:
            flags.DEFINE_string(each.name, each.default, **common)


def read(cls: type[Settings]) -> Settings:
    """The object of a settings class with the values of the parsed flags.

    Raises:
        UsageError: a list flag that is not numbers in range, or values that the class's `__post_init__` rejects.
    """
    return cls(**{each.name: _convert(each, FLAGS[each.name].value) for each in all_settings([cls])})


def _convert(declared: Setting, value: Value) -> Value:
    if declared.kind is Path:
        return _path(declared.name, value)
    if value is None or not (declared.is_tuple or declared.choices):
        return value
    return _numbers(declared, value) if declared.is_tuple else declared.kind(value)


def _path(name: str, value: Value) -> Path | None:
    if not value:  # an empty path unsets the value of a flag file
        return None
    if _ADDRESS.match(value):  # pathlib would turn it into a local folder, `gs:/bucket`
        raise UsageError(
            f"--{name}={value}: not a local path; mount the file system (gcsfuse, mount-s3, NFS) or copy the data "
            "(gcloud storage cp -r, aws s3 sync, hdfs dfs -get), and give the local path"
        )
    return Path(value).expanduser()


def _numbers(declared: Setting, items: list[str]) -> tuple:
    try:
        values = tuple(declared.kind(item) for item in items)
    except ValueError:
        values = ()
    lower = -math.inf if declared.lower is None else declared.lower
    upper = math.inf if declared.upper is None else declared.upper
    is_missing = not values and (items or not declared.may_be_empty)
    if is_missing or not all(lower <= value <= upper for value in values):
        bounds = f"from {lower:g} to {upper:g}" if upper < math.inf else "above 0"
        kind = "whole numbers" if declared.kind is int else "numbers"
        raise UsageError(f"--{declared.name}={','.join(items)}: {kind} {bounds} are needed, separated by commas")
    return values


def as_flags(values: object) -> str:
    """The flags that give the settings of an object, one per line, as text for --flagfile."""
    defined = flags.FlagValues()
    define([type(values)], defined)
    for each in all_settings([type(values)]):
        value = getattr(values, each.name)
        defined[each.name].value = [*map(str, value)] if each.is_tuple else value
    return "".join(f"{defined[each.name].serialize()}\n" for each in all_settings([type(values)]))


class Options:
    """The settings objects of a program, by their class: `options[LossSettings]`. Raises as `read`."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._settings = [*all_settings(classes)]
        self._objects: dict[type, Any] = {cls: read(cls) for cls in classes}

    def __getitem__(self, cls: type[Settings]) -> Settings:
        return self._objects[cls]

    def as_flagfile(self) -> str:
        """The flags with their values, one per line, as text for --flagfile."""
        return self._as_text(FLAGS)

    def defaults_as_flagfile(self) -> str:
        """The same for the defaults."""
        defaults = flags.FlagValues()
        define(self._classes, defaults)
        return self._as_text(defaults)

    def _as_text(self, flag_values: flags.FlagValues) -> str:
        parsed = [flag_values[each.name] for each in self._settings]
        return "".join(f"{flag.serialize()}\n" for flag in parsed if flag.value is not None)

    def hyperparameters(self) -> dict[str, flags.Flag]:
        """The flags that change what the model learns, by name, with their values and defaults."""
        return {each.name: FLAGS[each.name] for each in self._settings if each.hyperparameter}

    def fixed_names(self) -> frozenset[str]:
        """Names of the settings that a checkpoint depends on."""
        return frozenset(each.name for each in self._settings if each.fixed)


def refuse_arguments(arguments: list[str]) -> None:
    """Raises UsageError for arguments that are not flags, of a program that takes none."""
    if arguments:
        raise UsageError(f"unexpected argument {arguments[0]!r}: only flags are taken")


def require(name: str, value: Given | None) -> Given:
    """The value of a flag that has no default; raises UsageError if it was not given."""
    if not value:
        raise UsageError(f"--{name} is needed")
    return value
