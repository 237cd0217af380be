"""Uses the page of `deeplab.app` in a browser as a person would, and compares its masks with those of predict.

python bench/checks/app_check.py MODEL_DIR FOLDER PICTURE [PICTURE ...]

Needs what requirements-app.lock holds, and Chromium; CHROMIUM names its program. `.ci/app` installs and runs it. For
each picture, once in a window of 1280 and once of 390 pixels: upload it, download the mask. In between: a file that is
not a picture, another stride with scales and flip, a class that is hidden, another opacity, a click on the heat map. At
last the program is stopped while it segments. Prints a line for each check and writes screenshots to FOLDER, light and
dark, of the page before a picture, with a file that is refused, with a mask, and with the settings open. Exit status 1
if a check fails, if axe-core finds anything serious in these, if one is wider than its window, if the page asks for
anything beyond its server, or writes to the console, or if the program leaves anything in its temporary folder.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pages_check import check, failures, serious, surplus
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

import deeplab

PORT = 7890
ADDRESS = f"http://127.0.0.1:{PORT}"
LOAD = functools.cache(deeplab.load)
OF_GRADIO = "Method not implemented."
"""What Gradio 6.31 writes to the console whenever its page closes a stream of events."""
VIEWS = deeplab.Inference(scales=(1.0, 1.5), flip=True)


@contextmanager
def served(model_dir: str) -> Iterator[None]:
    """The page's program, until the end of the block; checks how it ends."""
    command = [sys.executable, "-m", "deeplab.app", f"--model_dir={model_dir}", f"--port={PORT}"]
    with tempfile.TemporaryDirectory() as folder:
        with subprocess.Popen(command, env=os.environ | {"TMPDIR": folder}) as program:
            try:
                wait_for(ADDRESS)
                yield
            finally:
                program.terminate()
                status = program.wait(10)
        left = [path.name for path in Path(folder).iterdir()]
        check(status == 0 and not left, f"the program ends with status {status} and leaves {left}")


def wait_for(address: str) -> None:
    """Until a server answers; URLError after two minutes."""
    for remaining in range(120, -1, -1):
        try:
            urllib.request.urlopen(address).close()
            return
        except urllib.error.URLError:
            if not remaining:
                raise
            time.sleep(1)


def upload(page: Page, path: Path, expected: str) -> None:
    """Puts a file into the page and waits until its line of text appears."""
    if page.locator("#picture button[aria-label='Remove Image']").count():
        page.locator("#picture button[aria-label='Remove Image']").click()
    page.locator("#picture input[type=file]").set_input_files(path)
    expect(page.locator("#status")).to_contain_text(expected, timeout=120_000)


def downloaded(page: Page, button: str) -> np.ndarray:
    """The picture behind a download button."""
    with page.expect_download() as download:
        page.locator(f"#{button}").click()
    return np.array(Image.open(download.value.path()))


def clicked(page: Page, part: str, place: tuple[float, float], probabilities: np.ndarray) -> float | None:
    """Clicks on a part at a place, as shares of height and width, in a picture with these probabilities.

    Returns the largest probability that the page then shows; None if it is that of no pixel next to the place.
    """
    height, width, _ = probabilities.shape
    y = int(place[0] * height)
    x = int(place[1] * width)
    near = probabilities[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max(-1)

    # The picture is as large as its frame allows, and in the middle.
    image = page.locator(f"#{part} img").last
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    assert box is not None
    scale = min(box["width"] / width, box["height"] / height)
    left = box["x"] + (box["width"] - scale * width) / 2
    top = box["y"] + (box["height"] - scale * height) / 2
    page.mouse.click(left + scale * (x + 0.5), top + scale * (y + 0.5))

    for _ in range(30):
        page.wait_for_timeout(1000)
        for meter in page.locator("#point meter").all()[:1]:
            shown = float(meter.get_attribute("value") or "nan")
            if np.isclose(shown, near, atol=1e-4).any():
                return shown
    return None


def look(page: Page, width: int, state: str, folder: Path) -> None:
    """Light and dark: a screenshot, what axe-core finds, and whether the page fits its window."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        expect(page.get_by_text("Loading...")).to_have_count(0, timeout=60_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / f"app_{width}_{state}_{scheme}.png", full_page=True)
        found = serious(page)
        check(not found, f"{width}, {state}, {scheme}: axe-core: {found}")
        wide = surplus(page)
        check(wide <= 0, f"{width}, {state}, {scheme}: {wide} pixels wider than the window")
    page.emulate_media(color_scheme="light")


def use(page: Page, width: int, model_dir: str, pictures: list[Path], broken: Path, folder: Path) -> None:
    """Everything that is done in one window."""
    model = LOAD(model_dir)
    look(page, width, "start", folder)
    for picture in pictures:
        upload(page, picture, picture.stem)
        mask = model.segment(deeplab.read_image(picture))
        check(np.array_equal(downloaded(page, "mask"), mask), f"{width}: mask of {picture.name} equals predict's")
    upload(page, broken, "cannot be read as an image")
    color = page.locator("#status .bad").evaluate("each => getComputedStyle(each).color")
    check(color == "rgb(200, 30, 30)", f"{width}: a broken file gives a line, in red ({color})")
    look(page, width, "refused", folder)
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("picture", "segmented")]
    sizes = [box and (box["width"], box["height"]) for box in boxes]
    check(sizes[0] == sizes[1], f"{width}: picture and mask have one size {sizes}")

    last = pictures[0]
    upload(page, last, last.stem)
    before = downloaded(page, "overlay")
    page.locator("#shown input").nth(0).click()
    page.locator("#opacity input[type=range]").fill("0.3")
    page.locator("#opacity input[type=range]").dispatch_event("pointerup")
    page.wait_for_timeout(3000)
    after = downloaded(page, "overlay")
    check(not np.array_equal(before, after), f"{width}: hiding a class and the opacity change the overlay")
    check("%" not in (page.locator("#point").text_content() or ""), f"{width}: no probabilities before a click")
    probabilities = model.probabilities(deeplab.read_image(last))
    for part, place in {"segmented": (0.3, 0.4), "picture": (0.8, 0.1), "heat": (0.1, 0.9)}.items():
        shown = clicked(page, part, place, probabilities)
        check(shown is not None, f"{width}: a click on the {part} shows the probabilities there: {shown}")
    look(page, width, "mask", folder)


def use_settings(page: Page, width: int, model_dir: str, picture: Path, folder: Path) -> None:
    """Other settings in one window, chosen while there is no picture, so that only one segmentation follows."""
    page.locator("#picture button[aria-label='Remove Image']").click()
    expect(page.locator("#status")).not_to_contain_text(picture.stem, timeout=30_000)
    page.get_by_text("Settings", exact=True).first.click()
    look(page, width, "settings", folder)
    page.get_by_label("8", exact=True).click()
    page.get_by_label("1.5", exact=True).click()
    page.get_by_label("Also average over the mirrored picture").click()
    upload(page, picture, picture.stem)
    expected = LOAD(model_dir, output_stride=8, inference=VIEWS).segment(deeplab.read_image(picture))
    check(np.array_equal(downloaded(page, "mask"), expected), f"{width}: stride 8, scales and flip as predict's")
    before = LOAD(model_dir).segment(deeplab.read_image(picture))
    check(not np.array_equal(expected, before), f"{width}: they change the mask")


def main() -> None:
    """Serves, uses the page in both windows, and reports."""
    model_dir, target, *names = sys.argv[1:]
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    with served(model_dir), sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        broken = Path(scratch) / "broken.png"
        broken.write_bytes(b"not a picture")
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        for width, height in ((1280, 900), (390, 844)):
            page = browser.new_page(viewport={"width": width, "height": height})
            asked: list[str] = []
            lines: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda line, lines=lines: lines.append(line.text) if line.text != OF_GRADIO else None)
            page.on("pageerror", lambda error, lines=lines: lines.append(str(error)))
            page.goto(ADDRESS)
            pictures = [*map(Path, names)]
            use(page, width, model_dir, pictures, broken, folder)
            use_settings(page, width, model_dir, pictures[0], folder)
            others = [url for url in asked if not url.startswith((ADDRESS, "data:", "blob:"))]
            check(not others, f"{width}: {len(asked)} requests, all to the server {others[:3]}")
            check(not lines, f"{width}: the console is empty {lines[:3]}")
            page.get_by_label("32", exact=True).click()  # segmented while the page is closed, and the program stopped
            page.wait_for_timeout(500)
            page.close()
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
