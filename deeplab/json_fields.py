"""JSON files that may be damaged or somebody else's: every field is checked by its type and range."""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any, TypeVar

from deeplab.errors import shortened
from deeplab.files import read_regular

Object = TypeVar("Object")


def parse_json(text: str) -> Any:  # noqa: ANN401  whatever the text holds
    """As `json.loads`.

    Raises:
        ValueError: not JSON, or nested so deeply that Python cannot read it.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> Any:  # noqa: ANN401
    """What a JSON file holds.

    Raises:
        OSError: as `read_regular`.
        ValueError: not UTF-8, or as `parse_json`.
    """
    return parse_json(read_regular(path).decode())


def from_fields(cls: type[Object], fields: object, **known: object) -> Object:
    """An object of a dataclass from a JSON object; lists become tuples.

    Args:
        cls: its fields may be str, bool, int, float, tuples of one of these or of a dataclass, or a dataclass. The
            limits and choices of a field that is a setting apply.
        fields: what the file holds.
        **known: values of fields that the file does not hold.

    Raises:
        ValueError: not an object; a field is missing, unknown, of another type or out of range.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"{_short(fields)} where an object belongs")
    declared = {field.name: field for field in dataclasses.fields(cls) if field.name not in known}  # type: ignore[arg-type]
    if unknown := sorted(fields.keys() - declared.keys()):
        raise ValueError(f"unknown field {_short(unknown[0])}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in declared.items():
        if name in fields:
            values[name] = _of_type(hints[name], fields[name], name)
            _check_range(field, values[name])
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"no field {name!r}")
    return cls(**values, **known)


def field_of(fields: object, name: str, cls: type[Object]) -> Object:
    """The value of one field of a JSON object, whatever its other fields are; whole numbers are floats, too.

    Raises:
        ValueError: not an object, or the field is missing, of another type or not finite.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"{_short(fields)} where an object belongs")
    if name not in fields:
        raise ValueError(f"no field {name!r}")
    return _of_type(cls, fields[name], name)


def _of_type(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401  a type and a value of it
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name}: {_short(value)} is not a list")
        return tuple(_of_type(typing.get_args(hint)[0], item, name) for item in value)
    if dataclasses.is_dataclass(hint):
        return from_fields(typing.cast(type, hint), value)
    if hint is float and type(value) is int and abs(value) < 1 << 53:  # a larger one may be too large for a float
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ValueError(f"{name}: {_short(value)}")
    return value


def _check_range(field: dataclasses.Field, value: Any) -> None:  # noqa: ANN401  a value of the field
    """Raises ValueError for a value that the flag of this name would not take."""
    declared = field.metadata.get("setting")
    if declared is None:
        return
    lower = -math.inf if declared["lower"] is None else declared["lower"]
    upper = math.inf if declared["upper"] is None else declared["upper"]
    for item in value if isinstance(value, tuple) else (value,):
        is_number = isinstance(item, int | float)
        if (declared["choices"] and item not in declared["choices"]) or (is_number and not lower <= item <= upper):
            raise ValueError(f"{field.name}: {_short(item)}")


def _short(value: object) -> str:
    return shortened(repr(value))
