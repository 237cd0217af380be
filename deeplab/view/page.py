"""Parts shared by all HTML pages; each page is one file that loads nothing from outside."""

import base64
import hashlib
import io
import os
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from deeplab.labels import VOID_LABEL
from deeplab.view.colors import class_colors
from deeplab.view.template import Markup, Template

_LARGEST_SIDE = 480  # pixels, of JPEGs

_TEMPLATE = Template(Path(__file__).with_name("page.html"))
_SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")


def render(
    title: str, tiles: Mapping[str, object], sections: Mapping[str, Markup], style: str = "", script: str = ""
) -> str:
    """A page as text: a heading, large numbers by name, sections by heading; empty sections are omitted.

    The page's policy admits one script by its hash: that of all pages, followed by `script`. Pictures may lie beside
    the page.
    """
    script = f"{_SCRIPT}{script}"
    filled = _TEMPLATE.fill(
        "page",
        title=title,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        tiles=Markup.joined(_TEMPLATE.fill("tile", name=name, value=value) for name, value in tiles.items()),
        sections=Markup.joined(
            _TEMPLATE.fill("section", place=name.lower().replace(" ", "-"), name=name, content=content)
            for name, content in sections.items()
            if content
        ),
    )
    return f"{filled}\n"


def facts(items: Mapping[str, object]) -> Markup:
    """A list of names and values."""
    return _TEMPLATE.fill(
        "facts", items=Markup.joined(_TEMPLATE.fill("fact", name=name, value=value) for name, value in items.items())
    )


def link(target: Path, folder: Path) -> Markup:
    """A link to a file, for a page in `folder`."""
    address = urllib.parse.quote(os.path.relpath(target, folder).replace(os.sep, "/"))
    return _TEMPLATE.fill("link", address=address, text=target.name)


def link_within(place: str) -> Markup:
    """A link to the part of the same page whose ID is `quoted(place)`."""
    return _TEMPLATE.fill("link", address=f"#{quoted(place)}", text=place)


def quoted(place: str) -> str:
    """A name as an ID: without blanks."""
    return urllib.parse.quote(place)


def legend(indices: Iterable[int], class_names: Sequence[str]) -> Markup:
    """The names of the classes in a row, in the form of `class_name`."""
    entries = (_TEMPLATE.fill("legend_entry", class_name=class_name(index, class_names)) for index in indices)
    return Markup(" ".join(entries))


def class_name(index: int, class_names: Sequence[str]) -> Markup:
    """A square in the color of a class, or of void, followed by the name."""
    red, green, blue = class_colors(class_names)[index]
    name = "void" if index == VOID_LABEL else class_names[index]
    return _TEMPLATE.fill("class_name", red=red, green=green, blue=blue, name=name)


def image(picture: Image.Image, text: str, file_format: str, css_class: str = "") -> Markup:
    """A picture embedded in the page, with an alternative text; a JPEG is shrunk to `_LARGEST_SIDE`."""
    if file_format == "JPEG":
        picture = picture.convert("RGB")
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, file_format, optimize=True)
    return _TEMPLATE.fill(
        "image",
        css_class=css_class,
        width=picture.width,
        height=picture.height,
        text=text,
        format=file_format.lower(),
        data=base64.b64encode(buffer.getvalue()).decode(),
    )
