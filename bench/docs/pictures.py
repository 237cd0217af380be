"""Makes the pictures of README.md and docs/ from a run of the demo.

make demo && .venv/bin/pip install '.[app]' playwright && PYTHONPATH=bench/checks .venv/bin/python \
    bench/docs/pictures.py runs/demo docs

Chromium must be installed; CHROMIUM names its program. Written: demo.png (side by side), overlays.png (of
`deeplab.predict`), and screenshots of TensorBoard, of the report and of the page to try a model.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app_check import ADDRESS, served, upload, wait_for
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

NUM_EXAMPLES = 4
GAP = 16  # pixels
TENSORBOARD_PORT = 7891


def main() -> None:
    """Writes all five."""
    run = Path(sys.argv[1])
    target = Path(sys.argv[2])
    side_by_side = sorted((run / "eval/side_by_side").glob("*.png"))[:NUM_EXAMPLES]
    photos = [run / "data/JPEGImages" / f"{path.stem}.jpg" for path in side_by_side]
    grid([Image.open(path) for path in side_by_side], columns=2).save(target / "demo.png", optimize=True)
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "deeplab.predict", f"--model_dir={run}", f"--output_dir={folder}"]
        subprocess.run([*program, *map(str, photos)], check=True)
        overlays = [Image.open(path) for path in sorted(Path(folder, "overlays").glob("*"))]
        grid(overlays, columns=NUM_EXAMPLES).save(target / "overlays.png", optimize=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        shoot_tensorboard(browser, run, target / "tensorboard.png")
        with page_of(browser, (run / "eval/report.html").resolve().as_uri(), 1000, 700) as page:
            page.screenshot(path=target / "report.png")
        with served(str(run)), page_of(browser, ADDRESS, 1100, 860) as page:
            upload(page, photos[1], photos[1].stem)
            page.wait_for_timeout(3000)
            page.screenshot(path=target / "app.png")
    with Image.open(target / "app.png") as enlarged:  # in 256 colors, half the bytes
        enlarged.quantize(dither=Image.Dither.NONE).save(target / "app.png", optimize=True)


def grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """The pictures in rows, on white, each in a cell as large as the largest."""
    width, height = (max(picture.size[axis] for picture in pictures) + GAP for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (width * columns - GAP, height * rows - GAP), "white")
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % columns * width, number // columns * height))
    return whole


def shoot_tensorboard(browser: Browser, run: Path, path: Path) -> None:
    """Its first page of charts."""
    program = [sys.executable, "-m", "tensorboard.main", f"--logdir={run}", f"--port={TENSORBOARD_PORT}"]
    with subprocess.Popen(program, stderr=subprocess.DEVNULL) as tensorboard:
        try:
            address = f"http://127.0.0.1:{TENSORBOARD_PORT}"
            wait_for(address)
            with page_of(browser, f"{address}/#custom_scalars", 1400, 640) as page:
                page.wait_for_timeout(10_000)  # for the events to be read
                page.reload()
                page.wait_for_timeout(5000)
                page.screenshot(path=path)
        finally:
            tensorboard.terminate()


@contextmanager
def page_of(browser: Browser, address: str, width: int, height: int) -> Iterator[Page]:
    """A window of this size, in pixels, at this address."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(address)
    yield page
    page.close()


if __name__ == "__main__":
    main()
