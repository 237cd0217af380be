"""Files of flags in the encodings and with the quotes of various shells."""

import codecs
from pathlib import Path

import pytest

from deeplab.errors import UsageError
from deeplab.program.flag_files import with_files_read

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEXT = "# a comment\r\n--voc_dir=Bilder für A\r\n\r\n--epochs=3\r\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
    ],
    ids=["UTF-8", "with a mark", "UTF-16", "big-endian", "UTF-16 without a mark"],
)
def test_encodings(tmp_path, content):
    path = tmp_path / "a.flags"
    path.write_bytes(content)
    for given in ([f"--flagfile={path}"], ["-flagfile", str(path)]):
        assert list(with_files_read(["first", *given, "last"])) == [
            "first",
            "--voc_dir=Bilder für A",
            "--epochs=3",
            "last",
        ]


def test_latin_1_is_refused_in_one_line(tmp_path):
    path = tmp_path / "a.flags"
    path.write_bytes(TEXT.encode("latin-1"))
    with pytest.raises(UsageError, match=rf"^--flagfile={path}: cannot be read \(flags\): line 2 is not UTF-8; .*$"):
        list(with_files_read([f"--flagfile={path}"]))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('--voc_dir="a b"', "--voc_dir=a b"),
        ("--voc_dir='a b'", "--voc_dir=a b"),
        ('"--voc_dir=a b"', "--voc_dir=a b"),
        ('--voc_dir="a', '--voc_dir="a'),
        ("--voc_dir=a'b'", "--voc_dir=a'b'"),
        ("  --noflip  ", "--noflip"),
        ("// --noflip", None),
    ],
)
def test_lines(tmp_path, line, expected):
    path = tmp_path / "a.flags"
    path.write_text(line)
    assert list(with_files_read([f"--flagfile={path}"])) == ([expected] if expected else [])


def test_files_that_name_others(tmp_path):
    outer, inner = tmp_path / "outer.flags", tmp_path / "inner.flags"
    outer.write_text(f"--a=1\n--flagfile={inner}\n--a=3\n")
    inner.write_text("--a=2\n")
    assert list(with_files_read([f"--flagfile={outer}", f"--flagfile={outer}"])) == ["--a=1", "--a=2", "--a=3"] * 2
    inner.write_text(f"--flagfile={outer}\n")
    with pytest.raises(UsageError, match=rf"^--flagfile={outer}: names itself, in a circle$"):
        list(with_files_read([f"--flagfile={outer}"]))


def test_a_missing_file_and_what_follows_two_dashes(tmp_path):
    with pytest.raises(UsageError, match=rf"^--flagfile={tmp_path}/a: no such file \(flags\)$"):
        list(with_files_read([f"--flagfile={tmp_path}/a"]))
    with pytest.raises(UsageError, match=r"^--flagfile: needs a file$"):
        list(with_files_read(["--flagfile"]))
    assert list(with_files_read(["--", f"--flagfile={tmp_path}/a"])) == ["--", f"--flagfile={tmp_path}/a"]


def test_a_file_that_powershell_wrote():
    if not SHARED.exists():
        pytest.skip(f"needs {SHARED}")
    flags = ["--voc_dir=in/base", "--tfrecord_dir=run/sh_u16", "--prepare_only"]
    assert list(with_files_read([f"--flagfile={SHARED}/reports/utf16.flags"])) == flags
