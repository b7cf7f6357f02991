"""The pages as a reader meets them: a real Chromium, no network, wide and narrow, light and dark.

Needs Debian's chromium. Without one the tests are skipped, unless REQUIRE_BROWSER=1. The screenshots are
left in `_build/screenshots` to look at.
"""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from ntf_utils import ROOT

SCREENSHOTS = ROOT / "_build" / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
STATE = """slider => {
    const around = slider.closest('.explorer') ?? document.body;
    return [slider.value, around.innerText];
}"""

UNDECIDED = """() => [...document.querySelectorAll('.explorer')].flatMap((explorer, place) => {
    const names = new Set([...explorer.querySelectorAll('input[type=radio]')].map((radio) => radio.name));
    return [...names].filter((name) => !explorer.querySelector(`input[name="${name}"]:checked`)).map((n) => [place, n]);
})"""


def page_names() -> list[str]:
    """Every page of the table of contents, and the search page."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def files(entry: dict) -> list[str]:
        below = [part for key in ("parts", "chapters", "sections") for part in entry.get(key, [])]
        here = [entry[key] for key in ("root", "file") if key in entry]
        return here + [file for part in below for file in files(part)]

    return [*files(toc), "search"]


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        missing = "no chromium on this machine: the pages are not looked at (apt-get install chromium)"
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip)(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *QUIET])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", page_names())
def test_page(name: str, width: int, scheme: str, browser: Browser, html: Path):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("request", lambda r: r.url.startswith("http") and problems.append(f"asks for {r.url}"))
    page.on("requestfailed", lambda r: problems.append(f"did not get {r.url}"))
    page.on("console", lambda m: m.type == "error" and problems.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: problems.append(f"script error: {e}"))
    page.goto((html / f"{name}.html").as_uri())
    page.evaluate("() => window.MathJax?.startup?.promise.then(() => null)")
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.locator("mjx-merror").count() == 0

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace('/', '.')}-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert page.evaluate(UNDECIDED) == [], "a choice shows nothing chosen: explorers on one page must not share names"
    for slider in page.locator("input[type=range]").all():
        moves_by_keyboard(slider)
        moves_by_mouse(page, slider)
    if (width, scheme) == (1400, "light"):  # what follows does not depend on either
        for button in page.locator(".explorer .play").all():
            plays_and_pauses(page, button)
        for label in page.locator(".explorer fieldset label:not(.gone)").all():
            label.click()
            assert label.locator("input").is_checked()
    context.close()
    assert not problems


def moves_by_keyboard(slider: Locator) -> None:
    slider.focus()
    slider.press("Home")
    value, words = slider.evaluate(STATE)
    slider.press("ArrowRight")
    assert slider.evaluate(STATE)[0] != value, "the arrow key moves nothing"
    assert slider.evaluate(STATE)[1] != words, "the arrow key changes no text"


def moves_by_mouse(page: Page, slider: Locator) -> None:
    slider.scroll_into_view_if_needed()
    seen = []
    for part in (0.02, 0.98):
        box = slider.bounding_box()
        page.mouse.click(box["x"] + part * box["width"], box["y"] + box["height"] / 2)
        seen.append(slider.evaluate(STATE))
    assert seen[0][0] != seen[1][0], "the mouse moves nothing"
    assert seen[0][1] != seen[1][1], "the mouse changes no text"


def plays_and_pauses(page: Page, button: Locator) -> None:
    slider = button.evaluate_handle("button => button.closest('.explorer').querySelector('input[type=range]')")
    slider.as_element().press("Home")
    start = slider.evaluate("slider => slider.value")
    button.click()
    assert button.inner_text() == "Pause"
    page.wait_for_function("([slider, start]) => slider.value !== start", arg=[slider, start])
    button.click()
    assert button.inner_text() == "Play"
