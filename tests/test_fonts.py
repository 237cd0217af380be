"""Class names in other scripts: a font that has their letters, or one warning."""

import numpy as np
import pytest
from PIL import ImageFont

from deeplab.labels import palette
from deeplab.view import fonts, pictures


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """As in a new process."""
    for cached in (fonts.font_for, fonts._font_files):
        cached.cache_clear()
    monkeypatch.setattr(fonts, "_missing", [])
    yield
    for cached in (fonts.font_for, fonts._font_files):
        cached.cache_clear()


def _legend(text):
    return np.array(pictures.legend({1: text}, 100, palette()))


def test_english_needs_no_font_of_the_system(monkeypatch):
    monkeypatch.setattr(fonts, "FOLDERS", None)
    assert fonts.font_for("road (wet)", 13).getname() == ImageFont.load_default(13).getname()


def test_a_letter_is_drawn_by_a_font_that_has_it():
    """Two letters differ in the picture, which two boxes do not."""
    if not any(fonts._has_all(ImageFont.truetype(path, 13), "жя") for path in fonts._font_files()):
        pytest.skip("needs a font with Cyrillic letters")
    assert (_legend("ж") != _legend("я")).any()
    matrices = [np.array(pictures.confusion_picture(np.eye(2, dtype=int), [letter, "-" * 9])) for letter in "жя"]
    assert (matrices[0] != matrices[1]).any()


def test_without_a_font_there_are_boxes_and_one_warning(monkeypatch, tmp_path, caplog):
    (tmp_path / "few.ttf").write_bytes(ImageFont.load_default(13).font_bytes)  # Pillow's own: no accents
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "damaged.TTF").write_bytes(b"no font")
    (tmp_path / "readme.txt").touch()
    monkeypatch.setattr(fonts, "FOLDERS", (tmp_path, tmp_path / "missing"))
    assert [path.name for path in fonts._font_files()] == ["few.ttf", "damaged.TTF"]
    np.testing.assert_array_equal(_legend("ж"), _legend("я"))
    _legend("道路")
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "ж: no font of this system has all its letters, so pictures show boxes"
    ]


def test_the_first_font_with_all_letters_is_taken(monkeypatch, tmp_path):
    content = ImageFont.load_default(13).font_bytes
    for name in ("b.ttf", "c-Bold.ttf", "a.otf"):
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(fonts, "FOLDERS", (tmp_path,))
    monkeypatch.setattr(fonts, "_has_all", lambda font, text: font.path == tmp_path / "b.ttf")
    assert fonts.font_for("é", 13).path == tmp_path / "b.ttf"
