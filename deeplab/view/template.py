"""Markup from template files: named blocks with $placeholders, whose values are escaped unless they are markup."""

import html
import re
import string
from collections.abc import Iterable
from pathlib import Path


class Markup(str):
    """HTML or SVG, as opposed to text."""

    @classmethod
    def joined(cls, parts: Iterable["Markup"]) -> "Markup":
        """The concatenation of markup."""
        return cls("".join(parts))


class Template:
    """The blocks of a template file; a line `<!-- block NAME -->` begins each.

    Line breaks between two tags keep the file readable; they are removed from the result.
    """

    def __init__(self, path: Path) -> None:
        _, *parts = re.split(r"^<!-- block (\w+) -->\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        texts = (re.sub(r">\n\s*<", "><", text.strip()) for text in parts[1::2])
        self._blocks = {name: string.Template(text) for name, text in zip(parts[::2], texts, strict=True)}

    def fill(self, block: str, **values: object) -> Markup:
        """The block with its placeholders replaced; raises KeyError for a placeholder without a value."""
        texts = {
            name: value if isinstance(value, Markup) else html.escape(str(value)) for name, value in values.items()
        }
        return Markup(self._blocks[block].substitute(texts))
