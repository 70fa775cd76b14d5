"""The report in a headless Chromium: what a person sees, clicks and types.

Needs Playwright (`pip install playwright`) and Debian's or any other Chromium on the PATH; skips without.
"""

import csv
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.looking import BLANK, LOADED, LUMINANCE, MARKS, check_keyboard, fits, opened
from tests.known_faults import KnownFaults, evaluate_known_faults

pytestmark = MARKS


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> KnownFaults:
    return evaluate_known_faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def page(view: tuple[int, str], browser: Any, faults: KnownFaults) -> Iterator[Any]:
    """The report."""
    with opened(browser, faults.out / "report.html", view) as page:
        yield page


def number(page: Any, name: str) -> int:
    return int(page.locator(f"#{name}").inner_text().replace(",", ""))


def visible_shots(page: Any) -> list[str]:
    return page.eval_on_selector_all(".shot:not([hidden])", "shots => shots.map(s => s.querySelector('b').innerText)")


def test_it_fits_every_picture_loads_and_text_can_be_read(page: Any) -> None:
    assert fits(page)
    loaded = page.evaluate(LOADED)
    assert len(loaded) >= 4 * 20 and all(width == 96 for width in loaded)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate(LUMINANCE) == []
    assert page.evaluate(BLANK) == 0


def test_the_slider_begins_at_the_decision_which_the_cross_marks(page: Any, faults: KnownFaults) -> None:
    def at(mark: str) -> tuple[float, float]:
        box = page.locator(f"#operating-plot #{mark}").bounding_box()
        return round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2)

    for name in ("any", "class 1"):
        page.select_option("#operating-class", name)
        strips = faults.metrics["strips"][name]
        assert (number(page, "at-found"), number(page, "at-stopped")) == (strips["found"], strips["stopped"])
        assert (page.input_value("#operating-rule"), page.input_value("#threshold")) == ("head_and_mask", "0")
        assert at("dot") == at("shipped")
    page.select_option("#operating-rule", "head")
    assert page.input_value("#threshold") == "128"  # of the decision
    page.locator("#threshold").fill("7")
    page.click("#operating-reset")
    assert page.input_value("#threshold") == "128"


def test_the_slider_tells_the_counts_of_metrics_json(page: Any, faults: KnownFaults) -> None:
    metrics = json.loads((faults.out / "metrics.json").read_text())
    for name in ("any", "class 1", "class 3"):
        page.select_option("#operating-class", name)
        for rule in ("head", "head_and_mask"):
            page.select_option("#operating-rule", rule)
            for threshold in (0, 12, 13, 128, 245, 246, 255):
                page.locator("#threshold").fill(str(threshold))
                strips, curve = metrics["strips"][name], metrics["operating_curves"][name][rule]
                found, stopped = curve["found"][threshold], curve["stopped"][threshold]
                assert number(page, "at-found") == found
                assert number(page, "at-stopped") == stopped
                assert number(page, "at-missed") == strips["defective"] - found
                assert number(page, "at-passed") == strips["clean"] - stopped
                assert number(page, "at-defective") == strips["defective"]
                share = page.locator("#at-found-share").inner_text()
                assert share == f"{100 * found / strips['defective']:.1f} %"
                assert page.locator("#at-threshold").inner_text() == f"{threshold / 255:.3f}"


def test_keys_move_the_slider_and_toggle_the_layers(page: Any, faults: KnownFaults) -> None:
    curve = faults.metrics["operating_curves"]["any"]["head"]
    slider = page.locator("#threshold")
    slider.fill("245")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "246"
    assert number(page, "at-found") == curve["found"][246] == 0

    def shown() -> dict[str, bool]:
        shot = page.locator(".shot").first
        shot.scroll_into_view_if_needed()
        return {
            layer: shot.locator(f".layer.{layer}").evaluate("e => getComputedStyle(e).visibility") == "visible"
            for layer in ("truth", "prediction", "probability")
        }

    assert shown() == {"truth": True, "prediction": True, "probability": False}
    page.keyboard.press("4")
    page.keyboard.press("2")
    assert shown() == {"truth": False, "prediction": True, "probability": True}
    assert page.locator("#layer-probability").get_attribute("aria-pressed") == "true"
    page.keyboard.press("1")
    assert shown() == {"truth": False, "prediction": False, "probability": False}
    page.locator("#layer-truth").click()
    assert shown() == {"truth": True, "prediction": False, "probability": False}


NAMES = """
() => [...document.querySelectorAll(".shot:not([hidden])")].map((shot) => {
  const picture = shot.querySelector("img").getBoundingClientRect();
  return [...shot.querySelectorAll(".name")].filter((name) => getComputedStyle(name).visibility === "visible")
    .map((name) => {
      const box = name.getBoundingClientRect();
      return {text: name.innerText, left: box.left - picture.left, top: box.top - picture.top,
        right: picture.right - box.right, bottom: picture.bottom - box.bottom, width: box.width, height: box.height};
    });
})
"""
"""What can be read beside the regions of each image, and where."""


def test_names_of_regions_stay_in_the_picture_and_cover_no_other(page: Any, faults: KnownFaults) -> None:
    def texts() -> set[str]:
        return {name["text"] for shot in page.evaluate(NAMES) for name in shot}

    # All of class 3 is found: the names of its true regions are those of predicted ones in the same place.
    assert texts() == {"class 1", "class 2", "class 1 0.95", "class 3 0.95"}
    shots = page.evaluate(NAMES)
    for names in shots:
        assert all(min(name[side] for side in ("left", "top", "right", "bottom")) > -0.6 for name in names)
        for i, one in enumerate(names):
            for other in names[:i]:
                beside = abs(one["left"] - other["left"]) >= min(one["width"], other["width"]) - 0.6
                assert beside or abs(one["top"] - other["top"]) >= one["height"] - 0.6
    page.keyboard.press("3")
    assert texts() == {"class 1", "class 2", "class 3"}  # of the truth
    page.keyboard.press("2")
    assert texts() == set()
    page.keyboard.press("3")
    assert texts() == {"class 1 0.95", "class 3 0.95"}
    page.locator("#layer-names").click()
    assert texts() == set()
    assert page.locator("#layer-names").get_attribute("aria-pressed") == "false"


def test_a_box_is_around_what_is_in_doubt(page: Any, faults: KnownFaults) -> None:
    with open(faults.out / "label_doubts.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    image = lines[0]["image_id"]
    shot = page.locator(".shot", has_text=image)
    claims = "in doubt: " + ", ".join(f"{line['class']} {line['claim']}" for line in lines if line["image_id"] == image)
    assert claims in shot.inner_text()
    picture, box = (shot.locator(what).first.bounding_box() for what in ("img", ".doubt"))
    scale = picture["width"] / 96
    for side, start in (("left", "x"), ("top", "y")):
        assert abs(box[start] - picture[start] - (scale * int(lines[0][side]) - 4)) < 1
    for side in ("width", "height"):
        assert abs(box[side] - (scale * int(lines[0][side]) + 8)) < 1
    assert page.locator(".doubt:visible").count() == len(lines)
    page.keyboard.press("6")
    assert page.locator(".doubt:visible").count() == 0
    page.locator("#layer-doubts").click()
    assert page.locator(".doubt:visible").count() == len(lines)
    page.keyboard.press("1")
    assert page.locator(".doubt:visible").count() == 0


def test_filters_and_orders_do_what_they_say(page: Any, faults: KnownFaults) -> None:
    with open(faults.out / "per_image.csv", newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    everything = visible_shots(page)
    assert everything[:24] == list(rows)[:24]  # the worst first, as in the table
    page.select_option("#gallery-kind", "misses")
    misses = visible_shots(page)
    assert misses and all(rows[name]["result"] == "miss" for name in misses)
    areas = [sum(int(rows[name][f"true pixels class {k}"]) for k in (1, 2, 3)) for name in misses]
    assert areas == sorted(areas, reverse=True)
    page.select_option("#gallery-class", "class 3")
    assert visible_shots(page) == []
    assert page.locator("#gallery-empty").is_visible()
    page.select_option("#gallery-kind", "labels in doubt")
    page.select_option("#gallery-class", "")
    assert set(visible_shots(page)) == faults.swapped
    page.select_option("#gallery-kind", "")
    assert page.locator("#gallery-count").inner_text() == f"{len(everything)} of {len(everything)} images"
    for order, column, falls in (("dice down", "dice", True), ("p up", "p any", False), ("dice up", "dice", False)):
        page.select_option("#gallery-order", order)
        values = [float(rows[name][column]) for name in visible_shots(page)]
        assert values == sorted(values, reverse=falls), order


def test_every_control_is_reached_and_seen_by_keyboard(page: Any) -> None:
    check_keyboard(page)


def test_all_can_be_reached_by_keyboard(page: Any, faults: KnownFaults) -> None:
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = [
        "operating-class", "operating-rule", "threshold", "operating-reset", "gallery-kind", "gallery-class",
        "gallery-order", "layer-image", "layer-truth", "layer-prediction", "layer-probability", "layer-names",
        "layer-doubts", "enlarge",
    ]  # fmt: skip
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted
    button = page.locator(".enlarge").first
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    link = page.locator("#labels a").first
    page.select_option("#gallery-kind", "misses")
    link.click()
    target = page.locator(link.get_attribute("href") or "")
    assert target.is_visible() and target.locator("b").inner_text() in faults.swapped


def test_without_a_script_nothing_is_dead_or_empty(browser: Any, faults: KnownFaults) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((faults.out / "report.html").as_uri())
    assert "The slider needs JavaScript" in page.locator("#strips").inner_text()
    for what in (".controls", ".operating", ".name.true", "#operating-plot"):
        assert not page.locator(what).first.is_visible()
    assert page.locator(".shot").first.is_visible() and page.locator(".name.predicted").first.is_visible()
    page.close()
