"""`index.html` of a data set: findings first, then what there is, in the look of the evaluation's report."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from steel.images.bitmask import unpack_masks
from steel.images.class_colours import class_colour
from steel.images.pictures import draw_outlines, encode_picture
from steel.labels.classes import beside_classes
from steel.reports.explore_data import ExploredData
from steel.reports.explore_figures import MOST_REGIONS, PixelSurvey, choose_examples, spread_over
from steel.reports.explore_findings import Finding
from steel.reports.html.bars import bar_list, histogram
from steel.reports.html.charts import Axis, Series, line_chart, octave_text, round_step, round_ticks
from steel.reports.html.document import Section, document
from steel.reports.html.figures import Figures, percent
from steel.reports.html.markup import Markup, definitions, escape, join, table, tag, void
from steel.reports.sections.common import PERCENT, class_name

NUM_EXAMPLES = 6
_NUM_GROUPS = 4
_MOST_PIXELS = 800
"""Longer side of a picture in the page."""
_BINS = 32


def explore_page(data: ExploredData, figures: dict[str, Any], survey: PixelSurvey, findings: Sequence[Finding]) -> str:
    """The page as text."""
    page = Figures(figures)
    sections = [
        Section("findings", "Findings", _findings(data, page, findings)),
        Section("classes", "Classes", _classes(page)),
        Section("areas", "Mask areas", _areas(page)),
        Section("regions", "Separate defects in an image", _regions(page)),
        Section("places", "Where defects lie", _places(data, survey)),
        Section("levels", "Gray levels", _gray_levels(data, page, survey)),
        Section("examples", "Examples", _examples(data)),
    ]
    if figures["folds"]:
        sections.append(Section("folds", "Folds", _folds(page)))
    sections.append(Section("duplicates", "Duplicates", _duplicates(data, page)))
    sections = [section for section in sections if section.content]
    return document("What is in the data", escape(data.where), sections, {})


def _findings(data: ExploredData, page: Figures, findings: Sequence[Finding]) -> Markup:
    parts = [_facts(page)]
    if not findings:
        parts.append(tag("p", "Nothing conspicuous was found.", class_="verdict good"))
    for number, finding in enumerate(findings):
        at = ("findings", number)
        mark = tag("span", "✗ " if finding.tone == "bad" else "? ", class_=f"mark {finding.tone}", aria_hidden="true")
        parts.append(tag("h3", mark, page.show(*at, "title")))
        parts.append(tag("p", page.show(*at, "advice"), class_="note"))
        parts.append(_gallery(data, finding.shown))
        if len(finding.rows) > len(finding.shown):
            words = f"The first {len(finding.shown)} of {len(finding.rows):,} images; figures.json lists all of them."
            parts.append(tag("p", words, class_="note"))
    return join(parts)


def _facts(page: Figures) -> Markup:
    figures = page.metrics
    shown = figures["sizes"][:3]
    sizes = [
        join([page.show("sizes", i, "height", form=""), "x", page.show("sizes", i, "width", form=""), " (",
              page.show("sizes", i, "images"), ")"])
        for i in range(len(shown))
    ]  # fmt: skip
    more = figures["num_sizes"] - len(shown)
    tail = (f" and {more} more" if more > 0 else "") + (", stored smaller" if figures["resized"] else "")
    return definitions(
        {
            "images": page.show("images"),
            "defective": page.show("defective"),
            "clean": page.show("clean"),
            "sizes": join([join(sizes, ", "), tail]),
            "channels": "gray" if figures["channels"] == 1 else "colour",
            "pixels read of": join([page.show("pixels", "images"), " images"]),
        }
    )


def _classes(page: Figures) -> Markup:
    figures = page.metrics
    names = list(figures["classes"])
    rows: list[tuple[str, int, int | None]] = [(beside_classes("clean", names), figures["clean"], None)]
    rows += [(name, figures["classes"][name]["images"], k) for k, name in enumerate(names)]
    charts = [bar_list("Images of each class", rows)]
    several = [found for found in figures["combinations"] if len(found["classes"]) > 1]
    if several:
        listed = [(" + ".join(found["classes"]), found["images"], None) for found in several[:8]]
        more = f" ({len(several) - 8} rarer combinations left out)" if len(several) > 8 else ""
        charts.append(bar_list(f"Images with several classes{more}", listed))
    header = ["", "images", "share", "smallest", "25 %", "median", "75 %", "largest", "mean"]
    keys = ("smallest", "lower_quartile", "median", "upper_quartile", "largest", "mean")
    tables = []
    for area, form, words in (("area", ",.0f", "pixels"), ("area_share", ".2%", "per cent of the image")):
        lines = [
            [
                class_name(name, k),
                page.show("classes", name, "images"),
                page.show("classes", name, "share", form=PERCENT),
                *(
                    page.show("classes", name, area, key, form=form) if area in figures["classes"][name] else ""
                    for key in keys
                ),
            ]
            for k, name in enumerate(names)
        ]
        tables.append(table(header, lines, caption=f"Areas in images that have the class, in {words}"))
    return join([tag("div", *charts, class_="charts"), *tables])


def _areas(page: Figures) -> Markup:
    octaves = page.metrics["area_octaves"]
    charts = [
        histogram(
            name,
            "pixels from, in doublings",
            [(octave_text(octaves["lowest"] + i), count) for i, count in enumerate(counts)],
            k,
        )
        for k, (name, counts) in enumerate(octaves["images"].items())
        if any(counts)
    ]
    return tag("div", *charts, class_="charts") if charts else Markup("")


def _regions(page: Figures) -> Markup:
    charts = []
    for k, (name, counts) in enumerate(page.metrics["pixels"]["regions"].items()):
        if any(counts):
            bins = [(f"{n}+" if n == MOST_REGIONS else str(n), count) for n, count in enumerate(counts, start=1)]
            charts.append(histogram(name, "regions in an image that has the class", bins, k))
    if not charts:
        return Markup("")
    note = ["Of ", page.show("pixels", "images"), f" images; {MOST_REGIONS} stands for so many regions and more."]
    return join([tag("div", *charts, class_="charts"), tag("p", *note, class_="note")])


def _places(data: ExploredData, survey: PixelSurvey) -> Markup:
    figures = []
    for k, name in enumerate(data.class_names):
        most = float(survey.heat[k].max())
        if most > 0:
            heat = _heat(survey.heat[k], k + 1)
            picture = tag("div", _image(heat, f"places of {name}"), class_=f"pictures{_upright(*heat.shape[:2])}")
            words = f" black: never; white: {percent(most)} of its masks"
            figures.append(tag("figure", picture, tag("figcaption", tag("b", name), words), class_="shot"))
    return tag("div", *figures, class_="gallery") if figures else Markup("")


def _heat(heat: np.ndarray, class_id: int) -> np.ndarray:
    """(h, w) share of masks that cover a place as a picture, from black over the class's colour to white."""
    strength = heat / max(float(heat.max()), 1e-12)
    low, high = np.minimum(1, 2 * strength)[..., None], np.maximum(0, 2 * strength - 1)[..., None]
    picture = (low * np.array(class_colour(class_id)) * (1 - high) + 255 * high).astype(np.uint8)
    scale = max(1, round(640 / max(heat.shape)))
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def _gray_levels(data: ExploredData, page: Figures, survey: PixelSurvey) -> Markup:
    has = data.has[survey.rows]
    clean = beside_classes("clean", data.class_names)
    groups: list[tuple[str, np.ndarray, int | None]] = [(clean, ~has.any(axis=1), None)]
    groups += [(name, has[:, k], k) for k, name in enumerate(data.class_names)]
    columns = [("Mean gray level", survey.mean, "gray level"), ("Contrast", survey.std, "standard deviation")]
    if survey.black.max(initial=0) > 0.02:
        columns.append(("Black beside the strip", survey.black, "share of the image"))
    charts = [_distribution(title, label, values, groups) for title, values, label in columns]
    lines = [
        [
            class_name(name, data.class_names.index(name) if name in data.class_names else -1),
            page.show("pixels", "groups", name, "images"),
            *(page.show("pixels", "groups", name, key, form=".1f") for key in ("mean", "std")),
            *(page.show("pixels", "groups", name, key, form=PERCENT) for key in ("black_share", "partly_black")),
        ]
        for name in page.metrics["pixels"]["groups"]
    ]
    header = ["", "images", "mean", "deviation", "black", "partly black"]
    note = "Mean and deviation leave black pixels out; an image is partly black when more than 2 % of it is."
    return join(
        [
            tag("div", *charts, class_="charts"),
            table(header, lines, caption="Means over the images that were read"),
            tag("p", note, class_="note"),
        ]
    )


def _distribution(
    title: str, label: str, values: np.ndarray, groups: Sequence[tuple[str, np.ndarray, int | None]]
) -> Markup:
    """Shares of each group's images over a measure, in bins that the number of images bears."""
    low, high = float(values.min()), float(values.max())
    high = high if high > low else low + 1
    num_bins = int(np.clip(np.sqrt(len(values)), 4, _BINS))
    series, most = [], 0.0
    for name, chosen, k in groups:
        if chosen.any():
            counts, edges = np.histogram(values[chosen], bins=num_bins, range=(low, high))
            shares = counts / counts.sum()
            most = max(most, float(shares.max()))
            middles = (edges[:-1] + edges[1:]) / 2
            series.append(Series(name, list(zip(middles.tolist(), shares.tolist(), strict=True)), k))
    ticks = [(value, f"{value:g}") for value in round_ticks(low, high)]
    step = round_step(most / 4) if most else 1.0
    shares = [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]
    shares_axis = Axis("share of images", [(share, f"{100 * share:.3g} %") for share in shares], 0.0, shares[-1] or 1.0)
    return line_chart(title, Axis(label, ticks, low, high), shares_axis, series)


def _examples(data: ExploredData) -> Markup:
    parts = []
    for class_id, name in enumerate(data.class_names, start=1):
        rows = choose_examples(data.areas, class_id, NUM_EXAMPLES)
        if rows:
            parts += [tag("h3", class_name(name, class_id - 1), ", from small to large"), _gallery(data, rows)]
    several = np.flatnonzero(data.has.sum(axis=1) > 1)
    if len(several):
        parts += [tag("h3", "several classes"), _gallery(data, spread_over(several, NUM_EXAMPLES))]
    clean = choose_examples(data.areas, None, NUM_EXAMPLES)
    if clean:
        parts += [tag("h3", beside_classes("clean", data.class_names)), _gallery(data, clean)]
    return join(parts)


def _folds(page: Figures) -> Markup:
    names = list(page.metrics["classes"])
    lines = [
        [
            page.show("folds", i, "fold", form=""),
            page.show("folds", i, "images"),
            page.show("folds", i, "clean"),
            *(
                join(
                    [
                        page.show("folds", i, "classes", name),
                        " (",
                        page.show("folds", i, "shares", name, form=PERCENT),
                        ")",
                    ]
                )
                for name in names
            ),
        ]
        for i in range(len(page.metrics["folds"]))
    ]
    header = ["fold", "images", beside_classes("clean", names), *names]
    return table(header, lines, caption="Images with each class, and their share of the fold")


def _duplicates(data: ExploredData, page: Figures) -> Markup:
    found = page.metrics["duplicates"]
    if not data.are_duplicates_sought and not found["groups_of_several"]:
        return tag("p", "Nobody has looked: the shards were made with --no-group-duplicates.", class_="note")
    if not found["groups_of_several"]:
        return tag("p", "Every image is a group of its own.", class_="note")
    kind = "equal or nearly so" if data.fold is not None else "equal, byte for byte"
    words = [
        *(page.show("duplicates", "groups_of_several"), f" groups of images that are {kind} hold "),
        *(
            page.show("duplicates", "images_in_them"),
            " images; the largest have ",
            page.texts("duplicates", "largest"),
            ".",
        ),
    ]
    parts = [tag("p", *words, class_="note")]
    numbers, counts = np.unique(data.group, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_NUM_GROUPS]
    for i in order.tolist():
        if counts[i] > 1:
            rows = np.flatnonzero(data.group == numbers[i]).tolist()
            more = f", the first {NUM_EXAMPLES}" if len(rows) > NUM_EXAMPLES else ""
            parts += [tag("h3", f"{len(rows)} images of one group{more}"), _gallery(data, rows[:NUM_EXAMPLES])]
    return join(parts)


def _gallery(data: ExploredData, rows: Sequence[int]) -> Markup:
    """Images with the outlines of their masks, and the masks alone on black."""
    if not rows:
        return Markup("")
    wide = 2 * sum(data.sizes[row, 1] >= 3 * data.sizes[row, 0] for row in rows) > len(rows)
    return tag("div", *(_shot(data, row) for row in rows), class_="gallery strips" if wide else "gallery")


def _shot(data: ExploredData, row: int) -> Markup:
    image, bitmask = data.read(row)
    scale = min(1.0, _MOST_PIXELS / max(bitmask.shape))
    size = tuple(max(1, round(side * scale)) for side in bitmask.shape)
    masks = unpack_masks(bitmask, len(data.class_names))
    # Shrunk by area, so that a mask of a few pixels does not vanish.
    masks = np.stack(
        [cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0 for mask in masks]
    )
    shown = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    pictures = [draw_outlines(shown, masks)]
    found = [(name, int(area)) for name, area in zip(data.class_names, data.areas[row], strict=True) if area]
    if found:
        alone = np.zeros((*size, 3), np.uint8)
        for class_id, mask in enumerate(masks, start=1):
            alone[mask] = class_colour(class_id)
        pictures.append(alone)
    name, pixels = data.image_ids[row], int(data.sizes[row].prod())
    images = [_image(picture, f"{name}{what}") for picture, what in zip(pictures, ("", ", masks alone"), strict=False)]
    words = "; ".join(f"{said}: {area:,} pixels, {percent(area / pixels, 2)}" for said, area in found)
    words = words or beside_classes("clean", data.class_names)
    fold = "" if data.fold is None else f", fold {data.fold[row]}"
    caption = tag("figcaption", tag("b", name), f" {words}{fold}")
    height, width = size
    beside = " beside" if len(images) > 1 and width < 2 * height else ""
    shown_as = f"pictures{beside}{_upright(*size)}"
    return tag("figure", tag("div", *images, class_=shown_as), caption, class_="shot")


def _upright(height: int, width: int) -> str:
    """The class of a picture that is kept from filling more than a screen."""
    return " upright" if height > width else ""


def _image(picture: np.ndarray, words: str) -> Markup:
    """A picture whose room is kept until it is loaded, so that nothing moves under a reader's eyes or hands."""
    data = base64.b64encode(encode_picture(picture, ".jpg", quality=92)).decode()
    height, width = picture.shape[:2]
    source = f"data:image/jpeg;base64,{data}"
    return void("img", src=source, alt=words, loading="lazy", decoding="async", width=width, height=height)
