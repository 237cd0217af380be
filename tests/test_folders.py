"""Images are found by the names that lists have, and what is there instead is told."""

import unicodedata

import pytest

from deeplab.data.source.folders import Folder
from deeplab.errors import DataError


@pytest.mark.parametrize("ending", ["jpg", "JPG", "jpeg", "PNG", "Tif", "bmp", "webp"])
def test_an_image_is_found_in_any_case_of_its_ending(tmp_path, ending):
    (tmp_path / f"a.{ending}").touch()
    (tmp_path / "a.json").touch()
    (tmp_path / "._a.jpg").touch()
    assert Folder(tmp_path).find("a") == str(tmp_path / f"a.{ending}")


def test_an_image_is_found_in_a_subfolder_and_in_any_unicode_form(tmp_path):
    name = unicodedata.normalize("NFD", "köln")
    (tmp_path / "day.1").mkdir()
    (tmp_path / "day.1" / f"{name}.v2.jpg").touch()
    found = Folder(tmp_path).find(f"day.1/{unicodedata.normalize('NFC', name)}.v2")
    assert found == str(tmp_path / "day.1" / f"{name}.v2.jpg")


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (["a.jpg", "a.PNG"], r"both a\.PNG and a\.jpg could be 'a'"),
        (["a_image.jpg", "b.jpg"], r"a\.jpg: missing; found instead: a_image\.jpg"),
        (["A.jpg"], r"a\.jpg: missing; found instead: A\.jpg"),
        (["a.raw"], r"a\.jpg: missing; found instead: a\.raw"),
        (["b.jpg", "c.jpg", "d.jpg", "e.jpg"], r"a\.jpg: missing; the folder holds b\.jpg, c\.jpg, d\.jpg \.\.\."),
        ([], r"a\.jpg: missing; the folder is empty"),
    ],
)
def test_what_is_not_found_is_told_with_what_is_there(tmp_path, there, reason):
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=reason):
        Folder(tmp_path).find("a")
    with pytest.raises(DataError, match="there is no folder"):
        Folder(tmp_path / "nowhere").find("a")
