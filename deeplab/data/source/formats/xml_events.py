"""Reads XML piece by piece. Declarations of entities, of which a few lines can become gigabytes, are refused."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from deeplab.data.source.formats.recognition import recognized
from deeplab.errors import DataError

_PIECE = 1 << 20


@dataclass(frozen=True)
class Event:
    """The start of an element, with its attributes; or its end, with the text inside it."""

    name: str
    attributes: dict[str, str] | None = None
    text: str = ""


def events(path: Path) -> Iterator[Event]:
    """The starts and ends of all elements in a file.

    Raises:
        DataError: unreadable, not XML, or with a document type.
    """
    found: list[Event] = []
    texts: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        texts.clear()
        found.append(Event(name, attributes))

    def end(name: str) -> None:
        found.append(Event(name, text="".join(texts)))
        texts.clear()

    def refuse(*_: object) -> None:
        raise DataError(f"{path}: a document type (<!DOCTYPE ...>), which annotations do not need; delete it")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = texts.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                parser.Parse(piece)
                yield from found
                found.clear()
            parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(f"{path}: cannot be read as XML: {error}{recognized(path)}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file (XML)") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read (XML): {error.strerror}{recognized(path)}") from error
    yield from found
