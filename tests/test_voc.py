"""VOC's classes, colours and splits; the download, against a local server."""

import hashlib
import io
import random
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from deeplab.data import voc
from deeplab.errors import DataError, UsageError


def test_palette_is_vocs_published_one():
    palette = voc.palette()
    # VOC devkit, VOClabelcolormap.m: aeroplane, bicycle, bird, person, tvmonitor, void.
    published = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128)}
    published |= {20: (0, 64, 128), 255: (224, 224, 192)}
    for index, colour in published.items():
        assert tuple(palette[index]) == colour


def test_palette_equals_that_in_vocs_own_masks(voc_sample):
    with Image.open(voc_sample / "SegmentationClass" / "2007_000032.png") as mask:
        stored = np.array(mask.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(stored, voc.palette()[: len(stored)])


def test_halves_of_val_follow_the_textbook(tiny_voc):
    names = [f"n{index}" for index in range(7)]
    (tiny_voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    random.seed(42)
    shuffled = list(names)
    random.shuffle(shuffled)
    assert voc.read_split(tiny_voc, "val_half") == shuffled[:3]
    assert voc.read_split(tiny_voc, "test_half") == shuffled[3:]
    assert voc.read_split(tiny_voc, "trainval") == ["a", "b", *names]


def test_a_list_file_wins_over_a_built_in_split(tiny_voc):
    (tiny_voc / "ImageSets" / "Segmentation" / "val_half.txt").write_text("\ufeffb\n\n my photo \n", encoding="utf-8")
    assert voc.read_split(tiny_voc, "val_half") == ["b", "my photo"]  # a byte order mark is no part of a name


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "empty"), ("a\na\n", "'a' stands twice"), ("../a\n", "not a plain file name"), ("..\n", "not a plain")],
)
def test_bad_split_files_are_refused(tiny_voc, content, reason):
    (tiny_voc / "ImageSets" / "Segmentation" / "bad.txt").write_text(content)
    with pytest.raises(DataError, match=rf"bad\.txt.*{reason}"):
        voc.read_split(tiny_voc, "bad")


def test_built_in_splits_are_checked_like_files(tiny_voc):
    (tiny_voc / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"val_half\.txt: the split is empty"):
        voc.read_split(tiny_voc, "val_half")
    with pytest.raises(DataError, match=r"trainval\.txt: the name 'b' stands twice"):
        voc.read_split(tiny_voc, "trainval")


def test_unknown_split_names_those_that_are_there(tiny_voc):
    with pytest.raises(DataError, match="no such split; found: train"):
        voc.read_split(tiny_voc, "tset")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no class names"),
        ("a\nb\na\n", "'a' stands twice"),
        ("x\n" * 256, "256 class names"),
        ("a\n\nb\n", "line 2 is empty"),
    ],
)
def test_bad_class_names_are_refused(tmp_path, content, reason):
    (tmp_path / "names.txt").write_text(content)
    with pytest.raises(DataError, match=reason):
        voc.read_class_names(tmp_path / "names.txt")


def test_class_names_as_windows_editors_save_them(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfroad\r\nsky\r\n\r\n")
    assert voc.read_class_names(tmp_path / "names.txt") == ("road", "sky")


def test_download_from_what_is_no_address(tmp_path):
    with pytest.raises(UsageError, match="--voc_url=mirror: not the address of an archive"):
        voc.download(tmp_path / "VOC2012", "mirror")


class _Server:
    """An HTTP server on loopback that serves one archive by the given handler."""

    def __init__(self, handler):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/small.tar"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def _archive(names=("VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",)):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 300_000
            tar.addfile(info, io.BytesIO(random.Random(name).randbytes(info.size)))
    return file.getvalue()


def _breaking_handler(archive, break_after, requests):
    """Knows ranges, and breaks off after `break_after` bytes of every answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            requests.append(wanted)
            start = int(wanted.split("=")[1].rstrip("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(archive) - start))
            self.end_headers()
            self.wfile.write(archive[start : start + break_after])

        def log_message(self, *args):
            pass

    return Handler


def test_download_goes_on_where_the_connection_broke(tmp_path):
    archive, requests = _archive(), []
    server = _Server(_breaking_handler(archive, 200_000, requests))
    target = tmp_path / "VOCdevkit" / "VOC2012"
    voc.download(target, server.url, hashlib.md5(archive).hexdigest())
    server.close()
    assert requests == [None, "bytes=200000-"]
    content = (target / "ImageSets" / "Segmentation" / "train.txt").read_bytes()
    assert content == random.Random("VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").randbytes(300_000)
    assert sorted(path.name for path in target.parent.iterdir()) == ["VOC2012", "small.tar"]
    voc.download(target, server.url, "no request is made for what is there")


def test_download_that_keeps_breaking_off_keeps_what_came(tmp_path):
    archive, requests = _archive(), []
    server = _Server(_breaking_handler(archive, 10_000, requests))
    with pytest.raises(DataError, match="the connection ended early"):
        voc.download(tmp_path / "VOC2012", server.url, hashlib.md5(archive).hexdigest())
    server.close()
    assert (tmp_path / "small.tar.part").stat().st_size == 10_000 * len(requests)
    assert not (tmp_path / "VOC2012").exists()


def test_download_with_a_wrong_checksum_is_thrown_away(tmp_path):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "small.tar").write_bytes(_archive())
    server = _Server(partial(SimpleHTTPRequestHandler, directory=tmp_path / "www"))
    with pytest.raises(DataError, match=f"MD5 is .*, not {'0' * 32}"):
        voc.download(tmp_path / "VOC2012", server.url, "0" * 32)
    with pytest.raises(DataError, match=r"404.*--voc_url"):
        voc.download(tmp_path / "VOC2012", server.url.replace("small", "other"), "0" * 32)
    server.close()
    assert [path.name for path in tmp_path.iterdir()] == ["www"]


def test_archive_members_outside_its_folder_are_refused(tmp_path):
    archive = _archive(["../escaped.txt"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "small.tar").write_bytes(archive)
    with pytest.raises(DataError, match="cannot be unpacked"):
        voc.download(tmp_path / "data" / "VOC2012", "http://127.0.0.1:9/small.tar", hashlib.md5(archive).hexdigest())
    assert not list(tmp_path.rglob("escaped.txt"))
