"""The page of `steel serve` in a headless Chromium: an image is dropped, verdict, classes and masks are seen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import steel
from tests.browser.looking import LUMINANCE, MARKS, check_keyboard, fits, focused, scrolled_right
from tests.serving import Server, save_tiny_model, serving

pytestmark = MARKS
for package in ("starlette", "uvicorn", "prometheus_client"):
    pytest.importorskip(package)

DROP = """
([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name));
  for (const type of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
}
"""
ROWS = "(id) => [...document.querySelectorAll(`#${id} tr`)].map((row) => [...row.cells].map((cell) => cell.innerText))"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "model.safetensors"
    save_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with serving(model) as running:
        yield running


@pytest.fixture
def page(view: tuple[int, str], browser: Any, server: Server) -> Iterator[Any]:
    """The page; at the end nothing was complained of, and nobody but the server was asked."""
    width, scheme = view
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    origin, wrong = f"http://127.0.0.1:{server.port}/", []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    allowed = (origin, "data:", f"blob:{origin}")
    page.on("request", lambda r: None if r.url.startswith(allowed) else wrong.append(f"request: {r.url}"))
    page.goto(origin)
    page.locator("#model", has_text="spot, trace").wait_for()  # no script: the page's own policy refuses those
    yield page
    page.close()
    refusals = [line for line in wrong if "status of 415" in line]  # the browser's own word on a refused request
    assert wrong == refusals


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_an_image_that_is_dropped_is_told_and_shown(page: Any, model: Path, ending: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 64), np.uint8)
    (expected,) = steel.load_predictor(model, device="cpu").predict(image)
    page.evaluate(DROP, [f"a{ending}", list(cv2.imencode(ending, image)[1].tobytes())])
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("h2") == f"a{ending}: defective"
    probs = [f"{100 * round(p / 255, 4):.1f} %" for p in expected.label_probs[1:].tolist()]
    assert page.evaluate(ROWS, "classes") == [["spot", "yes", probs[0]], ["trace", "yes", probs[1]]]
    regions = expected.regions()
    assert page.inner_text("#count") in (f"Regions: {len(regions)}", f"Regions: the 100 largest of {len(regions)}")
    areas = sorted((region.area for region in regions), reverse=True)[:100]
    assert [int(row[1]) for row in page.evaluate(ROWS, "regions")] == areas
    assert page.evaluate("document.querySelector('#image').naturalWidth") == 64
    polygons = page.locator("#masks polygon")
    assert polygons.count() == (len(regions) if ending == ".png" else 0), "browsers show no TIFF: the server's overlay"
    if ending == ".png":
        assert page.locator("#masks").evaluate("(e) => getComputedStyle(e).visibility") == "visible"
        page.uncheck("#shown")
        assert page.locator("#masks").evaluate("(e) => getComputedStyle(e).visibility") == "hidden"
    assert fits(page)
    assert page.evaluate(LUMINANCE) == []


SHOWN = """
() => [document.querySelector("h2").innerText, document.querySelector("#image").naturalWidth,
       document.querySelectorAll("#masks polygon").length]
"""


def drop_noise(page: Any, name: str, width: int) -> None:
    image = np.random.default_rng(width).integers(0, 256, (40, width), np.uint8)
    page.evaluate(DROP, [name, list(cv2.imencode(Path(name).suffix, image)[1].tobytes())])


def test_an_answer_that_comes_late_changes_nothing(page: Any) -> None:
    """Nor does one that is waited for: verdict, masks and picture are those of one image at any time."""
    held: list[Any] = []
    page.route("**/predict?format=overlay", lambda route: held.append(route))
    drop_noise(page, "first.png", 48)
    page.locator("h2", has_text="first.png").wait_for()
    first = page.evaluate(SHOWN)
    assert first[1] == 48 and first[2] > 0
    with page.expect_request("**/predict?format=overlay"):
        drop_noise(page, "late.tiff", 64)
    assert page.evaluate(SHOWN) == first
    drop_noise(page, "last.png", 80)
    page.locator("h2", has_text="last.png").wait_for()
    last = page.evaluate(SHOWN)
    assert last[1] == 80 and last[2] > 0
    with page.expect_event("requestfinished"):
        held[0].continue_()
    page.wait_for_timeout(300)  # for what must not happen
    assert page.evaluate(SHOWN) == last
    assert len(held) == 1


def test_what_is_no_image_is_told_in_one_line(page: Any) -> None:
    page.evaluate(DROP, ["<b>.txt", list(b"hello")])
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "not a readable image (JPEG, PNG, TIFF, BMP or WebP)"
    assert page.locator("#result").is_hidden()
    assert fits(page)
    assert page.evaluate(LUMINANCE) == []


def test_it_works_by_keyboard_alone(page: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 64), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    page.on("filechooser", lambda _: None)  # from now on they are caught; asked for below, it may come too late
    check_keyboard(page)  # where an image is chosen
    focused(page, "#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(tmp_path / "a.png")
    page.wait_for_selector("#result:not([hidden])")
    check_keyboard(page)  # what is told of it
    focused(page, "#shown")
    page.keyboard.press("Space")
    assert page.locator("#masks").evaluate("(e) => getComputedStyle(e).visibility") == "hidden"
    focused(page, "[aria-label=Regions]")
    if page.viewport_size["width"] == 400:
        page.keyboard.press("ArrowRight")
        scrolled_right(page)


@pytest.mark.parametrize("size", [(4000, 16), (16, 4000)])
def test_a_very_long_image_is_looked_along(page: Any, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    page.evaluate(DROP, ["long.png", list(cv2.imencode(".png", image)[1].tobytes())])
    page.wait_for_selector("#result:not([hidden])")
    view, picture = (page.locator(what).bounding_box() for what in ("#view", "#picture"))
    assert view["height"] <= 0.86 * 900 and min(picture["width"], picture["height"]) >= 48
    assert fits(page)
    focused(page, "#view")
    page.keyboard.press("ArrowDown" if size[0] > size[1] else "ArrowRight")
    page.wait_for_function("() => Math.max(...['#view'].map((id) => document.querySelector(id).scrollTop || "
                           "document.querySelector(id).scrollLeft)) > 0")  # fmt: skip


def test_without_a_script_it_says_what_to_do(browser: Any, server: Server) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(f"http://127.0.0.1:{server.port}/")
    assert "POST the image file to /predict" in page.locator("main").inner_text()
    page.close()
