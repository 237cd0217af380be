"""Uses the report and the page of a data set in a browser as a person would, in two widths, light and dark.

python bench/checks/pages_check.py FOLDER PAGE [PAGE ...]

PAGE: a report.html or a look.html. Needs playwright and axe-playwright-python, and Chromium; CHROMIUM names its
program. Checks that the page asks for nothing from outside, that the console is empty, that axe-core finds nothing
serious, and how long it takes to open: until all pictures in sight are loaded. In a report: sorts, filters, opens an
image, moves its slider, reads a class under the pointer; then the same by keys alone, with the focus in sight. In the
page of a data set: enlarges a picture by keys. Prints a line for each check and writes screenshots to FOLDER. Exit
status 1 if a check fails.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

LONGEST = 2.0
"""Seconds until a page has opened."""

failures: list[str] = []


def check(passed: bool, what: str) -> None:
    """Prints the result of a check."""
    print("passed" if passed else "FAILED", what, flush=True)
    if not passed:
        failures.append(what)


def serious(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    found: Any = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:120]} ({len(each['nodes'])})"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def surplus(page: Page) -> int:
    """By how many pixels a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def use_report(page: Page, where: str, shots: Path, name: str) -> None:
    """Sorts, filters and enlarges."""
    count = int((page.locator("#count").text_content() or "0").split()[0].replace(",", ""))
    page.wait_for_function(f"document.querySelectorAll('#gallery li').length === {count}")
    worst = page.locator("#gallery b").first.text_content()
    page.select_option("#sort", "best")
    best = page.locator("#gallery b").first.text_content()
    check(count == 1 or worst != best, f"{where}: {count} images; worst {worst}, best {best}")
    page.select_option("#class", index=page.locator("#class option").count() - 1)
    text = page.locator("#count").text_content()
    check(text is not None and text.endswith("images"), f"{where}: with the last class, by its IoU: {text}")
    page.locator("#gallery button").first.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    page.screenshot(path=shots / f"{name}_images.png")
    page.locator("#gallery button").first.click()
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    page.mouse.move(stage["x"] + stage["width"] / 3, stage["y"] + stage["height"] / 2)
    page.wait_for_timeout(500)
    here = page.locator("#here").text_content() or ""
    check(here.startswith("truth: ") and "prediction: " in here, f"{where}: under the pointer: {here}")
    page.locator("#slider").fill("30")
    clip = page.locator("#prediction").evaluate("each => each.style.clipPath")
    check("30%" in clip, f"{where}: the slider moves the edge: {clip}")
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / f"{name}_viewer.png")
    before = page.locator("#viewer_name").text_content()
    page.locator("#next").click()
    after = page.locator("#viewer_name").text_content()
    check(before != after or text.startswith("1 "), f"{where}: next goes from {before} to {after}")
    found = serious(page)
    check(not found, f"{where}: axe-core on the viewer: {found}")
    page.locator("#close").click()


def tab_to(page: Page, selector: str, unseen: list[str]) -> None:
    """Presses Tab until such an element has the focus; adds what had it on the way out of sight to `unseen`."""
    for _ in range(500):
        page.keyboard.press("Tab")
        unseen += page.evaluate(
            """() => {
                const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
                const seen = outlineStyle !== "none" && parseFloat(outlineWidth) > 0;
                return seen || document.activeElement === document.body ? [] : [document.activeElement.outerHTML];
            }"""
        )
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    check(False, f"Tab reaches {selector}")


def use_keys_in_report(page: Page, where: str) -> None:
    """Units of the matrix, sorting, filtering, an image with its slider and its neighbor, by keys alone."""
    unseen: list[str] = []
    page.reload()
    tab_to(page, "#units input", unseen)
    before = page.locator("#matrix_caption").text_content()
    page.keyboard.press("ArrowDown")
    check(before != page.locator("#matrix_caption").text_content(), f"{where}: an arrow changes the matrix's units")
    tab_to(page, "#sort", unseen)
    worst = page.locator("#gallery b").first.text_content()
    page.keyboard.press("ArrowDown")
    best = page.locator("#gallery b").first.text_content()
    tab_to(page, "#class", unseen)
    page.keyboard.press("ArrowDown")
    text = page.locator("#count").text_content() or ""
    check(text.startswith("1 ") or worst != best, f"{where}: arrows sort and filter: {worst}, {best}, {text}")

    tab_to(page, "#gallery button", unseen)
    page.keyboard.press("Enter")
    opened = page.locator("#viewer_name").text_content()
    tab_to(page, "#slider", unseen)
    before = page.locator("#prediction").evaluate("each => each.style.clipPath")
    page.keyboard.press("ArrowRight")
    after = page.locator("#prediction").evaluate("each => each.style.clipPath")
    check(before != after, f"{where}: an arrow moves the slider from {before} to {after}")
    tab_to(page, "#only_errors", unseen)
    page.keyboard.press("Space")
    check(page.locator("#errors").is_visible(), f"{where}: the space bar shows errors by kind")
    page.keyboard.press("ArrowRight")
    other = page.locator("#viewer_name").text_content()
    check(text.startswith("1 ") or opened != other, f"{where}: an arrow goes from {opened} to {other}")
    page.keyboard.press("Escape")
    back = page.evaluate("document.activeElement.matches('#gallery button')")
    check(not page.locator("#viewer").is_visible() and back, f"{where}: Escape closes, and the focus goes back")
    check(not unseen, f"{where}: the focus is in sight {unseen[:3]}")


def use_keys_in_survey(page: Page, where: str) -> None:
    """A picture opens large, and closes again."""
    unseen: list[str] = []
    tab_to(page, ".row img", unseen)
    page.keyboard.press("Enter")
    opened = page.locator("dialog.large").is_visible()
    page.keyboard.press("Escape")
    closed = not page.locator("dialog.large").is_visible()
    check(opened and closed, f"{where}: Enter opens a picture large, Escape closes it")
    check(not unseen, f"{where}: the focus is in sight {unseen[:3]}")


def use(browser: Browser, path: Path, width: int, scheme: Any, shots: Path) -> None:  # noqa: ANN401  playwright's literal
    """One page in one window."""
    page = browser.new_page(viewport={"width": width, "height": 850}, color_scheme=scheme)
    asked: list[str] = []
    lines: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda line: lines.append(line.text))
    page.on("pageerror", lambda error: lines.append(str(error)))
    name = f"{path.stem}_{width}_{scheme}"
    where = f"{path.name} at {width}, {scheme}"
    start = time.monotonic()
    page.goto(path.resolve().as_uri(), wait_until="load")
    seconds = time.monotonic() - start
    check(seconds < LONGEST, f"{where}: open after {seconds:.2f} s")
    page.screenshot(path=shots / f"{name}.png", full_page=page.locator("#gallery li").count() == 0)
    found = serious(page)
    check(not found, f"{where}: axe-core: {found}")
    wide = surplus(page)
    check(wide <= 0, f"{where}: {wide} pixels wider than the window")
    if page.locator("#gallery").count():
        use_report(page, where, shots, name)
        use_keys_in_report(page, where)
    else:
        use_keys_in_survey(page, where)
    outside = [url for url in asked if not url.startswith(("data:", path.resolve().parent.as_uri()))]
    check(not outside, f"{where}: {len(asked)} requests, none from outside {outside[:3]}")
    check(not lines, f"{where}: the console is empty {lines[:3]}")
    page.close()


def main() -> None:
    """Every page in every window."""
    shots = Path(sys.argv[1])
    shots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        for path in map(Path, sys.argv[2:]):
            for width in (1280, 390):
                for scheme in ("light", "dark"):
                    use(browser, path, width, scheme, shots)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
