"""What the page of deeplab.app shows of a picture, what the program refuses, and how it ends."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab.commands.app import program as app
from deeplab.commands.app.guard import Guard, Hosts
from deeplab.commands.app.trial import Trial
from deeplab.data.source import images
from deeplab.errors import DataError, UsageError
from deeplab.model.settings import Inference, ModelConfig
from deeplab.run.run_folder import record_run
from deeplab.view import pictures
from deeplab.view.colors import class_colors

NAMES = ("background", "cat", "dog")
MASK = np.array([[0, 1, 1, 2], [0, 1, 1, 0]], np.uint8)
PROBABILITIES = np.where(MASK[..., None] == np.arange(3), 0.5, 0.25).astype(np.float32)
IMAGE = np.full((2, 4, 3), 100, np.uint8)


class FakeModel:
    """Segments each picture as `MASK`."""

    class_names = NAMES

    def classes_and_probabilities(self, image):
        assert np.array_equal(image, IMAGE)
        return MASK, PROBABILITIES


@pytest.fixture
def segmenter(tmp_path, monkeypatch):
    """... of pictures of at most 8 pixels; notes the settings with which models are loaded."""
    loaded = []
    monkeypatch.setattr(app, "_load", lambda *settings: loaded.append(settings) or FakeModel())
    made = app.Segmenter(tmp_path / "run", app.AppSettings(max_pixels=8), 16, Inference(scales=(1.0,)), tmp_path)
    return made, loaded


@pytest.fixture
def trial(tmp_path):
    return Trial.of(tmp_path, "photo", IMAGE, MASK, PROBABILITIES, NAMES)


def test_shares_and_layers(trial):
    assert trial.texts == {1: "cat 50.0%", 0: "background 37.5%", 2: "dog 12.5%"}
    assert trial.foreground == [1, 2]
    _, layers, colors = trial.layers([2])
    ((layer, text),) = layers
    assert text == "dog 12.5%"
    assert trial.swatches == {1: "#0000ff", 0: "#000000", 2: "#ffe100"}
    assert np.array_equal(layer, MASK == 2)
    assert colors == {"dog 12.5%": "#ffe100"}  # the second class's color where classes are not VOC's


def test_a_share_that_reads_as_nothing_is_left_out(tmp_path):
    mask = np.zeros((1, 4000), np.uint8)
    mask[0, 0] = 1  # 0.025 %
    mask[0, 1:4] = 2  # 0.075 %
    trial = Trial.of(
        tmp_path, "wide", np.zeros((1, 4000, 3), np.uint8), mask, np.zeros((1, 4000, 3), np.float32), NAMES
    )
    assert trial.texts == {0: "background 99.9%", 2: "dog 0.1%"}
    assert trial.foreground == [2]


def test_heading(tmp_path):
    assert app.describe(Path("exported"), None, NAMES, is_export=True) == [
        "exported: an export",
        "3 classes: background, cat, dog",
    ]
    record_run(tmp_path, ModelConfig(NAMES, backbone="mobilenet_v2", decoder=True), "")
    checkpoint = str(tmp_path / "checkpoints" / "latest" / "ckpt-4")
    assert app.describe(tmp_path, checkpoint, NAMES, is_export=False) == [
        "DeepLab v3+, mobilenet_v2",
        "3 classes: background, cat, dog",
        f"Checkpoint {checkpoint}",
    ]


def test_probabilities(trial):
    assert trial.at(3, 0) == {"background": 0.25, "cat": 0.25, "dog": 0.5}
    assert trial.at(99, -1) == trial.at(3, 0)
    black_to_white = np.array(pictures.heat_map(np.array([[0.0, 0.35, 1.0]])))
    assert black_to_white.tolist() == [[[0, 0, 0], [150, 10, 70], [255, 255, 230]]]
    assert np.array_equal(np.array(trial.heat_map(1)), np.array(pictures.heat_map(PROBABILITIES[..., 1])))


def test_large_picture_is_reduced_but_its_mask_is_not(tmp_path):
    mask = np.arange(2 * 2561).reshape(2, 2561).astype(np.uint8) % 3
    trial = Trial.of(tmp_path, "wide", np.zeros((2, 2561, 3), np.uint8), mask, np.eye(3, dtype=np.float32)[mask], NAMES)
    image, layers, _ = trial.layers([1])
    assert image.shape == (1, 854, 3)
    assert np.array_equal(layers[0][0], mask[::3, ::3] == 1)
    assert np.array_equal(np.array(Image.open(trial.save_mask())), mask)


def test_files_to_download(trial):
    assert np.array_equal(np.array(Image.open(trial.save_mask())), MASK)
    overlay = np.array(Image.open(trial.save_overlay([1], 0.5)))
    assert np.array_equal(overlay[0, 3], IMAGE[0, 3])  # dog is not shown
    assert np.array_equal(overlay[0, 1], class_colors(NAMES)[1])  # the contour, at twice the opacity


def test_the_model_is_loaded_with_what_is_chosen_on_the_page(segmenter, tmp_path):
    segment, loaded = segmenter
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    segment(str(tmp_path / "photo.png"))
    segment(str(tmp_path / "photo.png"), 8, [1.5, 0.5], True)
    assert loaded == [
        (tmp_path / "run", None, 16, Inference(scales=(1.0,))),
        (tmp_path / "run", None, 8, Inference(scales=(0.5, 1.5), flip=True)),
    ]
    with pytest.raises(UsageError, match="choose at least one scale"):
        segment(str(tmp_path / "photo.png"), 8, [], False)


def test_the_time_is_that_of_the_best_rate_with_the_same_settings(segmenter, tmp_path, monkeypatch):
    segment, _ = segmenter
    path = str(tmp_path / "photo.png")
    Image.fromarray(IMAGE).save(path)
    clock = iter([0.0, 80.0, 100.0, 116.0, 200.0, 240.0])
    monkeypatch.setattr(app.time, "monotonic", lambda: next(clock))
    assert segment.expected(path) == (8, None)
    expected = []
    for _ in range(3):
        segment(path)
        expected.append(segment.expected(path))
    assert expected == [(8, 80.0), (8, 16.0), (8, 16.0)]
    assert segment.expected(path, 8, [1.0], False) == (8, None)


def test_page(segmenter, tmp_path):
    page = pytest.importorskip("deeplab.commands.app.page", reason="needs Gradio")
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    said, (trial, status, *_) = page._segment(segmenter[0], str(tmp_path / "photo.png"), 0, 0.6)
    assert said[1] == "Segmenting 8 pixels: no estimate yet, as it is the first with these settings ..."
    assert np.array_equal(np.array(Image.open(trial.save_mask())), MASK)
    assert status.startswith("photo: 4x2 pixels<style>")
    assert [f"background: {color};" in status for color in trial.swatches.values()] == [True] * 3
    segmenter[0].rates[16, Inference(scales=(1.0,))] = 0.5
    said, _ = page._segment(segmenter[0], str(tmp_path / "photo.png"), 0, 0.6)
    assert said[1] == "Segmenting 8 pixels: about 4 s, at the best rate so far ..."
    (tmp_path / "broken.png").write_bytes(b"no picture")
    ((trial, status, *_),) = page._segment(segmenter[0], str(tmp_path / "broken.png"), 0, 0.6)
    assert trial is None
    assert status.startswith('<span class="bad">broken.png: cannot be read as an image')


def test_too_many_pixels(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(IMAGE).save(path)
    with pytest.raises(DataError, match=r"^photo.png: 4x2 pixels, more than --max_pixels=7$"):
        app.read_picture(path, 7)


def test_of_a_picture_too_large_only_the_header_is_read(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    Image.fromarray(IMAGE).save(path)
    path.write_bytes(path.read_bytes()[:41])  # up to the pixels' chunk, with its name
    monkeypatch.setattr(app, "ImageFile", None)
    with pytest.raises(DataError, match=r"^photo.png: 4x2 pixels, more than --max_pixels=7$"):
        app.read_picture(path, 7)


def test_the_limit_on_pixels_reaches_the_reader(tmp_path, monkeypatch):
    """Which derives that on bytes from it, and refuses more than 89 million otherwise."""
    path = tmp_path / "photo.png"
    Image.fromarray(IMAGE).save(path)
    read = []
    monkeypatch.setattr(app, "ImageFile", lambda *arguments: read.append(arguments) or images.ImageFile(*arguments))
    assert app.read_picture(path, 300_000_000).shape == IMAGE.shape
    assert read == [(path, 300_000_000, "--max_pixels")]


def ask(hosts, path="/gradio_api/call/segment", body=b"", **headers):
    """Status of the answer, and the body that the application behind the guard got, None if it was not asked."""
    received = [
        {"type": "http.request", "body": body[:5], "more_body": True},
        {"type": "http.request", "body": body[5:], "more_body": False},
    ]
    headers = {"host": "localhost:7860", "content-length": str(len(body)), **headers}
    scope = {"type": "http", "path": path, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    sent = []
    got = []

    async def application(scope, receive, send):
        more = True
        while more:
            message = await receive()
            got.append(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200})

    async def receive():
        return received.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(application, hosts, max_upload=100)(scope, receive, send))
    return sent[0]["status"], b"".join(got) if got else None


LOCAL = Hosts("127.0.0.1", "gpu-box")
EVERYWHERE = Hosts("0.0.0.0", "gpu-box")


@pytest.mark.parametrize(
    ("hosts", "served", "refused"),
    [
        (LOCAL, "localhost localhost:7860 LocalHost:1 127.0.0.1:7860 [::1]:7860", "gpu-box 10.0.0.7 [fe80::1]"),
        (EVERYWHERE, "localhost:7860 10.0.0.7:7860 [fe80::1]:7860 gpu-box:7860 GPU-BOX", "gpu-box.evil.example"),
        (Hosts("[::1]", "gpu-box"), "[::1]:7860", "gpu-box"),
        (Hosts("gpu-7", "gpu-box"), "gpu-7:7860", "gpu-box 10.0.0.7"),
    ],
)
def test_hosts_that_are_served(hosts, served, refused):
    for header in served.split():
        assert ask(hosts, host=header) == (200, b""), header
    for header in [*refused.split(), "evil.example:7860", "localhost@evil.example", "evil.example/localhost", ""]:
        assert ask(hosts, host=header) == (403, None), header


def test_the_address_of_a_picture_is_refused_however_it_is_written():
    picture = b'{"data": [{"path": "%s", "meta": {"_type": "gradio.FileData"}}]}'
    local = picture % b"/tmp/a.png"
    assert ask(LOCAL, body=local) == (200, local)
    for address in (b"http://a/b.png", b"HTTPS://a/b.png", rb"http:\/\/a/b.png", rb"\u0068ttp:\u002f/a/b.png"):
        assert ask(LOCAL, body=picture % address) == (400, None), address
    assert ask(LOCAL, body=b'{"data": [[[{"a": {"path": "http://a"}}]]]}') == (400, None)
    assert ask(LOCAL, body=(picture % b"http://a/b.png").decode().encode("utf-16")) == (400, None)
    assert ask(LOCAL, body=b"path=http://a") == (400, None)
    assert ask(LOCAL, body=b"[" * 100_000) == (400, None)
    assert ask(LOCAL, path="/gradio_api/file=http://a/b.png") == (400, None)
    assert ask(LOCAL, path="/gradio_api/file=/tmp/a.png") == (200, b"")


def test_large_requests_are_refused_before_their_body_is_read():
    other = 2**20
    assert ask(LOCAL, path="/gradio_api/upload", **{"content-length": str(other + 100)}) == (200, b"")
    assert ask(LOCAL, path="/gradio_api/upload", **{"content-length": str(other + 101)}) == (413, None)
    assert ask(LOCAL, **{"content-length": str(other)}) == (200, b"")
    assert ask(LOCAL, **{"content-length": str(other + 1)}) == (413, None)
    assert ask(LOCAL, path="/gradio_api/upload", **{"transfer-encoding": "chunked"}) == (411, None)


BUSY = """
import os, sys, threading, time
from pathlib import Path
from deeplab.commands.app.ending import end_and_delete

def write(number):
    while True:
        own = Path(sys.argv[1], str(number), str(time.time_ns()))
        own.mkdir(parents=True)
        (own / "picture.png").write_bytes(b"secret")

for number in range(4):
    threading.Thread(target=write, args=(number,)).start()
time.sleep(0.2)
assert len(os.listdir(sys.argv[1])) == 4
end_and_delete(Path(sys.argv[1]))
"""


def test_the_end_leaves_nothing_of_the_folder_though_threads_write_to_it(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", BUSY, str(folder)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert not folder.exists()
