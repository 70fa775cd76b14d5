"""`compare.html`: a comparison as a page in the look of `report.html`; its numbers are those of `compare.json`."""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from steel.metrics.bootstrap import TOO_FEW
from steel.metrics.table import headings
from steel.reports.comparison import RESULTS
from steel.reports.earlier import refuse_others
from steel.reports.html.charts import interval_chart
from steel.reports.html.document import Section, document
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, escape, join, table, tag, void
from steel.reports.sections.common import SCORE, class_name
from steel.storage import remove, write_text

LISTED = 25
"""Changed images in the table of a pair."""
PICTURED = 10
"""Changed images of a pair whose pictures are shown."""
_TONES = {"better": ("good", "✓"), "worse": ("bad", "✗"), "within the noise": ("", "–"), TOO_FEW: ("", "?")}


def write_comparison(comparison: Mapping[str, Any], path: Path) -> None:
    """Write the page, and `.json` beside it with every number in it; an earlier page never stands beside other ones.

    Raises:
        InputError: files of these names are there that no earlier call has written.
    """
    numbers = path.with_suffix(".json")
    refuse_others([path, numbers], numbers, {"sources", "pairs"})
    remove(path)
    write_text(numbers, json.dumps(comparison, indent=1, allow_nan=False) + "\n")
    write_text(path, comparison_page(comparison))


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """The page as text."""
    page = Figures(comparison)
    sections = [
        Section("verdict", "Which is better", _verdicts(page)),
        Section("scores", "Scores side by side", _scores(page)),
    ]
    for number, pair in enumerate(comparison["pairs"]):
        if not pair["why_not"]:
            names = [comparison["sources"][pair[which]]["name"] for which in ("second", "first")]
            heading = f"{names[0]} against {names[1]}"
            sections.append(Section(f"pair-{number}", heading, _pair(page, number)))
    if comparison["settings"]:
        sections.append(Section("settings", "What was done differently", _settings(page)))
    everybody = ", ".join(source["name"] for source in comparison["sources"])
    return document("Comparison of defect models", escape(everybody), sections, {})


def _verdicts(page: Figures) -> Markup:
    """A sentence for each pair, then what each is by itself."""
    parts: list[Markup] = []
    sources = page.metrics["sources"]
    for number, pair in enumerate(page.metrics["pairs"]):
        if pair["why_not"]:
            continue
        so = "" if pair["flattered"] else pair["differences"]["mean Dice"]["so"]
        tone = {"better": "good", "worse": "bad"}.get(so, "warn")
        parts.append(tag("p", page.show("pairs", number, "sentence"), class_=f"verdict named {tone}"))
    unpaired = {
        page.metrics["pairs"][n]["why_not"]: n for n in range(len(sources) - 1) if page.metrics["pairs"][n]["why_not"]
    }
    for why in unpaired:
        who = ", ".join(sources[pair["second"]]["name"] for pair in page.metrics["pairs"] if pair["why_not"] == why)
        words = f"Not paired with {sources[0]['name']}: {who}, for {why}. Scores on other images differ by chance, too."
        parts.append(tag("p", words, class_="note"))
    lines = [
        [
            page.show("sources", i, "name"),
            page.show("sources", i, "verdict"),
            page.show("sources", i, "images"),
            page.show("sources", i, "path"),
        ]
        for i in range(len(sources))
    ]
    header = ["", "by itself", "images", "file"]
    return join([*parts, table(header, lines, caption="Each against answering nothing", class_="worded")])


def _scores(page: Figures) -> Markup:
    sources, names = page.metrics["sources"], page.metrics["classes"]
    rows = [
        [heading, *(page.show("sources", i, name, form=SCORE) for i in range(len(sources))), *_spread(page, name)]
        for name, heading in headings(*sources, per_class=False).items()
    ]
    columns = ["", *(source["name"] for source in sources)]
    spread = ["mean", "standard deviation"] if page.metrics["spread"] else []
    chart = interval_chart(
        "Mean Dice, its 95 % interval and the all-empty floor",
        [
            (s["name"], s["mean_dice"], tuple(s["interval"]) if s["interval"] else None, s["mean_dice_all_empty"], None)
            for s in sources
        ],
    )
    differ = any(pair["unshared_classes"] for pair in page.metrics["pairs"])
    caption = "Over all classes of each, which are not the same" if differ else "Over all classes"
    parts = [table([*columns, *spread], rows, caption=caption), tag("div", chart, class_="charts")]
    for key, heading in headings(*sources, per_class=True).items():
        lines = [
            [class_name(name, k), *(_of_class(page, i, key, name) for i in range(len(sources)))]
            for k, name in enumerate(names)
        ]
        parts.append(table(columns, lines, caption=f"{heading} of each class"))
    return join(parts)


def _spread(page: Figures, name: str) -> list[object]:
    if name not in page.metrics["spread"]:
        return ["", ""] if page.metrics["spread"] else []
    return [page.show("spread", name, part, form=SCORE) for part in ("mean", "deviation")]


def _of_class(page: Figures, source: int, key: str, name: str) -> object:
    values = page.metrics["sources"][source][key]
    return page.show("sources", source, key, name, form=SCORE) if values and name in values else ""


def _pair(page: Figures, number: int) -> Markup:
    """Differences with their intervals, what became of images, those that changed most."""
    pair = page.metrics["pairs"][number]
    sources = page.metrics["sources"]
    first, second = sources[pair["first"]]["name"], sources[pair["second"]]["name"]
    at = ("pairs", number)
    lines = []
    for name, found in pair["differences"].items():
        tone, mark = _TONES[found["so"]]
        so = join(
            [
                tag("span", mark, class_=f"mark {tone}", aria_hidden="true"),
                " ",
                page.show(*at, "differences", name, "so"),
            ]
        )
        values = [page.show(*at, "differences", name, key, form=SCORE) for key in ("first", "second")]
        gain = page.show(*at, "differences", name, "difference", form="+.4f")
        lines.append([name, so, *values, gain, page.span(*at, "differences", name, "interval", form="+.4f")])
    header = ["", "so", first, second, "difference", "95 %"]
    counts = tag(
        "p",
        *("On the same ", page.show(*at, "images"), " images: ", page.show(*at, "better_images"), " better, "),
        *(page.show(*at, "worse_images"), " worse, of all others the Dice is the same. "),
        *(
            (page.show(*at, "relabelled"), " images are labelled differently and left out.")
            if pair["relabelled"]
            else ()
        ),
        *_shared_classes(page, number),
    )
    return join(
        [
            counts,
            table(header, lines, caption="Differences, paired by image", class_="worded"),
            _results(page, number, first, second),
            _changed(page, number, first, second),
            *_pictures(pair, first, second),
        ]
    )


def _shared_classes(page: Figures, number: int) -> list[str]:
    """What a pair is compared on; empty where both have the same classes."""
    if not page.metrics["pairs"][number]["unshared_classes"]:
        return []
    shared, others = (page.texts("pairs", number, which) for which in ("classes", "unshared_classes"))
    return [" On the classes that both have: ", shared, ". Left out: ", others, "."]


def _results(page: Figures, number: int, first: str, second: str) -> Markup:
    """How many images went from which result to which."""
    found = page.metrics["pairs"][number]["results"]
    at = {(one["first"], one["second"]): i for i, one in enumerate(found)}
    kinds = [kind for kind in RESULTS if any(kind in pair for pair in at)]
    rows = [
        [
            kind,
            *(
                page.show("pairs", number, "results", at[kind, other], "images") if (kind, other) in at else "0"
                for other in kinds
            ),
        ]
        for kind in kinds
    ]
    return table([f"{first}, below; {second}, beside", *kinds], rows, caption="What became of strips")


def _changed(page: Figures, number: int, first: str, second: str) -> Markup:
    changed = page.metrics["pairs"][number]["changed"]
    at = ("pairs", number, "changed")
    rows = [
        [
            page.show(*at, i, "image_id"),
            page.show(*at, i, "first_dice", form=SCORE),
            page.show(*at, i, "second_dice", form=SCORE),
            page.show(*at, i, "difference", form="+.4f"),
            page.show(*at, i, "first_result"),
            page.show(*at, i, "second_result"),
        ]
        for i in range(min(LISTED, len(changed)))
    ]
    if not rows:
        return tag("p", "No image changed.", class_="note")
    more = (
        f", the first {LISTED} of {len(changed):,}; all are in the .json beside this page"
        if len(changed) > LISTED
        else ""
    )
    header = ["image", f"{first}: Dice", f"{second}: Dice", "difference", f"{first}: result", f"{second}: result"]
    return table(header, rows, caption=f"Images that changed, the most first{more}")


def _pictures(pair: Mapping[str, Any], first: str, second: str) -> Iterator[Markup]:
    """The overlays of images that changed, where an evaluation has drawn them."""
    figures: list[Markup] = []
    num_wide = 0
    for line in pair["changed"]:
        if len(figures) == PICTURED:
            break
        both = zip((first, second), line["overlays"], strict=True)
        shown = [(name, drawn) for name, path in both if path and (drawn := _overlay(path)) is not None]
        if not shown:
            continue
        parts: list[Markup] = []
        for name, (data, (width, height)) in shown:
            source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
            words = f"{line['image_id']} by {name}"
            parts += [tag("p", name, class_="note"), void("img", src=source, alt=words, width=width, height=height)]
        num_wide += width >= 1.5 * height
        dice, result = ([line[f"{which}_{what}"] for which in ("first", "second")] for what in ("dice", "result"))
        words = f" Dice {dice[0]:.4f} → {dice[1]:.4f}, {result[0]} → {result[1]}"
        figures.append(tag("figure", *parts, tag("figcaption", tag("b", line["image_id"]), words), class_="shot"))
    if figures:
        yield tag("h3", "Truth above prediction, of images that changed")
        yield tag("div", *figures, class_="gallery strips" if 2 * num_wide > len(figures) else "gallery")


def _overlay(path: str) -> tuple[bytes, tuple[int, int]] | None:
    """The file of a picture, its width and its height; None where there is none any more."""
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            return data, picture.size
    except OSError:
        return None


def _settings(page: Figures) -> Markup:
    sources = page.metrics["sources"]
    rows = [
        [page.show("settings", i, "name"), *(page.show("settings", i, "values", k) for k in range(len(sources)))]
        for i in range(len(page.metrics["settings"]))
    ]
    columns: Sequence[object] = ["", *(source["name"] for source in sources)]
    return table(
        columns, rows, caption="Of the configuration or the provenance, what is not the same in all", class_="free"
    )
