"""Pages in a headless Chromium, for tests: what a person would see, and whether anybody was asked for anything."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
LUMINANCE = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, [r, g, b, a]) =>
      [r, g, b].map((v, i) => v * a / 255 + below[i] * (1 - a / 255)), [255, 255, 255]);
  };
  const poor = [];
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = luminance(rgba(element instanceof SVGElement ? style.fill : style.color));
    const ground = luminance(behind(element));
    const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (contrast < 4.5) poor.push(`${element.tagName} ${element.textContent.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return poor;
}
"""
MARKS = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")]
LOADED = """
async () => {
  const images = [...document.images];
  images.forEach((image) => { image.loading = "eager"; });
  await Promise.all(images.map((image) => image.decode()));
  return images.map((image) => image.naturalWidth);
}
"""
"""Widths of all pictures, once they are there."""
BLANK = "[...document.querySelectorAll('section, .chart, table, .tile b')].filter((e) => !e.innerText.trim()).length"


@contextlib.contextmanager
def opened(browser: Any, path: Path, view: tuple[int, str]) -> Iterator[Any]:
    """A page, opened as a file; at the end nothing was complained of and nobody was asked."""
    width, scheme = view
    # Without motion, so that what is scrolled to is there at once.
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(f"request: {r.url}"))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert wrong == []


def fits(page: Any) -> bool:
    """Whether there is nothing to scroll sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


CONTROLS = """
() => {
  const wanted = "a[href], button, input, select, textarea, summary, [tabindex='0']";
  const controls = [...document.querySelectorAll(wanted)].filter((e) => !e.disabled && e.checkVisibility());
  controls.forEach((control, number) => { control.dataset.control = number; });
  return controls.map((e) => e.id || e.getAttribute("href") || e.getAttribute("aria-label") || e.innerText);
}
"""
"""What can be used, in the order of the page, each in words; marks it with its number."""
FOCUS = """
() => {
  const lined = (e) => getComputedStyle(e).outlineStyle !== "none" && parseFloat(getComputedStyle(e).outlineWidth) >= 2;
  const element = document.activeElement, box = element.getBoundingClientRect();
  return {
    number: Number(element.dataset.control ?? -1),
    lined: lined(element) || [...document.querySelectorAll("label:focus-within")].some(lined),
    inside: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
}
"""
POINTED = """
() => [...document.querySelectorAll("main *")].filter((e) => e.checkVisibility()
    && ["pointer", "zoom-in"].includes(getComputedStyle(e).cursor)
    && !e.closest("a[href], button, input, select, summary, label"))
  .map((e) => e.outerHTML.slice(0, 80))
"""
"""What looks as if it could be clicked, and is no control."""

TO_TOP = "() => { document.body.tabIndex = -1; document.body.focus(); }"
"""From where the next Tab leads to the first control."""


def check_keyboard(page: Any) -> None:
    """Fail unless Tab reaches every control in the order of the page, each in view and with an outline around it."""
    controls = page.evaluate(CONTROLS)
    assert controls
    page.evaluate(TO_TOP)
    for number, name in enumerate(controls):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        assert focus == {"number": number, "lined": True, "inside": True}, name
    assert page.evaluate(POINTED) == []


def focused(page: Any, control: str) -> Any:
    """The first control of that selector, where the next key goes; `check_keyboard` says that Tab leads there."""
    found = page.locator(control).first
    found.focus()
    return found


def scrolled_right(page: Any) -> None:
    """Wait until what has the focus has been scrolled; asked from here, where no policy of the page refuses it."""
    for _ in range(100):
        if page.evaluate("() => document.activeElement.scrollLeft") > 0:
            return
        page.wait_for_timeout(50)
    raise AssertionError("nothing was scrolled")
