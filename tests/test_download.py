"""The download, against a local server."""

import hashlib
import io
import random
import resource
import signal
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deeplab.data.source.download import download_voc
from deeplab.errors import DataError, UsageError


def test_download_from_something_that_is_not_an_address(tmp_path):
    with pytest.raises(UsageError, match="--voc_url=mirror: not the address of an archive"):
        download_voc(tmp_path / "VOC2012", "mirror")


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
    """Supports ranges, and closes the connection after `break_after` bytes of every response."""

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


def test_download_resumes_where_the_connection_broke(tmp_path):
    archive, requests = _archive(), []
    server = _Server(_breaking_handler(archive, 200_000, requests))
    target = tmp_path / "VOCdevkit" / "VOC2012"
    download_voc(target, server.url, hashlib.md5(archive).hexdigest())
    server.close()
    assert requests == [None, "bytes=200000-"]
    content = (target / "ImageSets" / "Segmentation" / "train.txt").read_bytes()
    assert content == random.Random("VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").randbytes(300_000)
    assert sorted(path.name for path in target.parent.iterdir()) == ["VOC2012", "small.tar"]
    download_voc(target, server.url, "no request is made for what is there")


def test_download_that_keeps_breaking_keeps_the_partial_file(tmp_path):
    archive, requests = _archive(), []
    server = _Server(_breaking_handler(archive, 10_000, requests))
    with pytest.raises(DataError, match="the connection ended early"):
        download_voc(tmp_path / "VOC2012", server.url, hashlib.md5(archive).hexdigest())
    server.close()
    assert (tmp_path / "small.tar.part").stat().st_size == 10_000 * len(requests)
    assert not (tmp_path / "VOC2012").exists()


def test_a_download_that_does_not_fit_on_the_disk_is_not_tried_again(tmp_path):
    """A limit on file sizes stands in for the disk."""
    archive, requests = _archive(), []
    server = _Server(_breaking_handler(archive, 200_000, requests))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError, match=r"File too large: '.*/small\.tar\.part'"):
            download_voc(tmp_path / "VOC2012", server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        server.close()
    assert len(requests) == 1
    assert (tmp_path / "small.tar.part").stat().st_size == 100_000


def test_download_with_a_wrong_checksum_is_discarded(tmp_path):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "small.tar").write_bytes(_archive())
    server = _Server(partial(SimpleHTTPRequestHandler, directory=tmp_path / "www"))
    with pytest.raises(DataError, match=f"MD5 is .*, not {'0' * 32}"):
        download_voc(tmp_path / "VOC2012", server.url, "0" * 32)
    with pytest.raises(DataError, match=r"404.*--voc_url"):
        download_voc(tmp_path / "VOC2012", server.url.replace("small", "other"), "0" * 32)
    server.close()
    assert [path.name for path in tmp_path.iterdir()] == ["www"]


def test_archive_members_outside_its_folder_are_rejected(tmp_path):
    archive = _archive(["../escaped.txt"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "small.tar").write_bytes(archive)
    with pytest.raises(DataError, match="cannot be unpacked"):
        download_voc(tmp_path / "data" / "VOC2012", "http://127.0.0.1:9/small.tar", hashlib.md5(archive).hexdigest())
    assert not list(tmp_path.rglob("escaped.txt"))
