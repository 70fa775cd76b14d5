"""The gallery of the report."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from steel.images.class_colours import class_colour
from steel.images.tags import Tag, ink_on
from steel.labels.classes import ANY, beside_classes
from steel.reports.gallery import KINDS
from steel.reports.html.charts import class_style
from steel.reports.html.figures import cell
from steel.reports.html.markup import Markup, join, tag, void
from steel.reports.per_image import ImageRow
from steel.reports.sections.common import SCORE, class_name
from steel.reports.sections.origin import PER_IMAGE
from steel.reports.shots import Shot

_SHOWN = "show-truth show-prediction show-names show-doubts"
"""What lies over the images at first."""


def gallery_section(
    names: Sequence[str],
    by_row: Mapping[int, ImageRow],
    shots: Sequence[Shot],
    kinds: Mapping[str, Sequence[int]],
    doubts: Sequence[Mapping[str, Any]],
    *,
    by_fold: bool,
) -> Markup:
    """Images with their layers, and the controls that choose among them.

    Args:
        names: of the classes.
        by_row: the images' lines.
        shots: their pictures, in order.
        kinds: each with its rows, in order.
        doubts: the lines of `label_doubts.csv`.
        by_fold: whether each fold has a member of its own, which is then named.
    """
    if not shots:
        return tag("p", "No image was kept for the gallery.", class_="note")
    controls = _controls(names, [kind for kind in KINDS if kinds.get(kind)], has_doubts=bool(doubts))
    legend = tag("ul", *(tag("li", class_name(name, k)) for k, name in enumerate(names)), class_="legend")
    doubted: dict[str, list[Mapping[str, Any]]] = {}
    for doubt in doubts:
        doubted.setdefault(doubt["image_id"], []).append(doubt)
    figures = [
        _shot(place, shot, line, names, kinds, doubted.get(line.values["image_id"], ())[:PER_IMAGE], by_fold)
        for place, shot in enumerate(shots)
        for line in [by_row[shot.row]]
    ]
    return join(
        [
            tag(
                "p",
                "Every image is a row of per_image.csv, which is sorted worst first. Click one to enlarge it. A "
                "predicted region has its name and mean probability on its colour, a true one its name in a frame; a "
                "name that would cover that of a larger region is left out until there is room."
                + (" A dashed box is around a region whose label is in doubt." if doubts else ""),
                _left_out(shots, kinds),
                class_="note",
            ),
            controls,
            legend,
            tag("p", id="gallery-count", class_="note", role="status"),
            tag("p", "No image is of this kind and class.", id="gallery-empty", class_="note", hidden=True),
            tag(
                "div",
                *figures,
                class_=f"gallery {_SHOWN}{' strips' if _are_strips(shots) else ''}",
                id="shots",
            ),
        ]
    )


def _left_out(shots: Sequence[Shot], kinds: Mapping[str, Sequence[int]]) -> str:
    """What is said where the page had no room for all."""
    more = len(set(chain(*kinds.values())) - {shot.row for shot in shots})
    return f" The last of each kind, {more} in all, are left out to keep this page small." if more else ""


def _controls(names: Sequence[str], there: Sequence[str], *, has_doubts: bool) -> Markup:
    """What chooses and sorts the images, of classes and of kinds that are there, and turns layers on and off."""
    # With a value: without one a browser takes the text, blanks that follow each other as one.
    options = [tag("option", "all kinds", value=""), *(tag("option", kind, value=kind) for kind in there)]
    classes = [tag("option", "all classes", value=""), *(tag("option", name, value=name) for name in names)]
    orders = {
        "place up": "as listed",
        "dice up": "lowest Dice",
        "dice down": "highest Dice",
        "p down": "highest P(any)",
        "p up": "lowest P(any)",
        "wrong down": "most wrong pixels",
    }
    buttons = [
        tag(
            "button",
            words,
            " ",
            tag("kbd", key),
            type="button",
            id=f"layer-{layer}",
            aria_pressed=None if layer == "image" else ("false" if layer == "probability" else "true"),
            aria_keyshortcuts=key,
        )
        for key, layer, words in (
            ("1", "image", "image alone"),
            ("2", "truth", "truth: outlines"),
            ("3", "prediction", "prediction: tint"),
            ("4", "probability", "probability"),
            ("5", "names", "names of regions"),
            *([("6", "doubts", "labels in doubt")] if has_doubts else []),
        )
    ]
    return tag(
        "div",
        tag("label", "kind", tag("select", *options, id="gallery-kind")),
        tag("label", "class, true or predicted", tag("select", *classes, id="gallery-class")),
        tag(
            "label", "order", tag("select", *(tag("option", w, value=v) for v, w in orders.items()), id="gallery-order")
        ),
        tag("div", *buttons, role="group", aria_label="Layers", class_="buttons"),
        class_="controls",
    )


def _are_strips(shots: Sequence[Shot]) -> bool:
    """Whether most images are at least three times as wide as they are high."""
    return 2 * sum(shot.size[1] >= 3 * shot.size[0] for shot in shots) > len(shots)


def _shot(
    place: int,
    shot: Shot,
    line: ImageRow,
    names: Sequence[str],
    kinds: Mapping[str, Sequence[int]],
    doubts: Sequence[Mapping[str, Any]],
    by_fold: bool,
) -> Markup:
    values = line.values
    places = {kind: list(rows).index(shot.row) for kind, rows in kinds.items() if shot.row in rows}
    clean = beside_classes("clean", names)
    height, width = shot.size
    size = {"width": width, "height": height}
    image = void(
        "img", src=_uri(shot.image, "jpeg"), alt=f"strip {values['image_id']}", loading="lazy", decoding="async", **size
    )
    layers = [
        void("img", src=_uri(data, "png"), alt="", class_=f"layer {layer}", loading="lazy", decoding="async", **size)
        for layer, data in (
            ("probability", shot.probability),
            ("prediction", shot.prediction),
            ("truth", shot.truth),
        )
    ]
    boxes = [_box(doubt, values) for doubt in doubts]
    button = tag(
        "button",
        tag("span", image, *layers, *boxes, *_names(shot, values["image_id"]), class_="layers"),
        type="button",
        class_="enlarge",
        aria_label=f"Enlarge {values['image_id']}",
        aria_expanded="false",
    )
    caption = tag(
        "figcaption",
        tag("b", values["image_id"]),
        " Dice ",
        cell(values, "dice", SCORE),
        ", P(any) ",
        cell(values, f"p {ANY}", ".3f"),
        ", wrong pixels ",
        cell(values, "wrong_pixels"),
        void("br"),
        "true: ",
        values["true"] or clean,
        "; predicted: ",
        values["predicted"] or clean,
        *((", by the member of fold ", cell(values, "fold")) if by_fold else ()),
        *_told(doubts),
        " ",
        tag("span", f"({', '.join(places)})", class_="kinds"),
    )
    return tag(
        "figure",
        button,
        caption,
        class_="shot tall" if height > 1.2 * width else "shot",
        style=f"--aspect:{width / height:.6g}",
        id=f"image-{shot.row}",
        data_kinds="|".join(places),
        data_places=json.dumps(places),
        data_place=place,
        data_classes=json.dumps([names[k] for k in sorted({*line.true, *line.predicted})]),
        data_dice=values["dice"],
        data_p=values[f"p {ANY}"],
        data_wrong=values["wrong_pixels"],
    )


def _box(doubt: Mapping[str, Any], size: Mapping[str, Any]) -> Markup:
    """What is around a region whose label is in doubt, in an image of that height and width."""
    sides = (("left", "width"), ("top", "height"), ("width", "width"), ("height", "height"))
    places = ";".join(f"--{side}:{100 * doubt[side] / size[whole]:.2f}%" for side, whole in sides)
    return tag("span", class_="doubt", style=places)


def _told(doubts: Sequence[Mapping[str, Any]]) -> list[object]:
    """The claims against an image's label in words."""
    claims = dict.fromkeys(f"{doubt['class']} {doubt['claim']}" for doubt in doubts)
    return ["; in doubt: ", ", ".join(claims)] if claims else []


def _names(shot: Shot, image_id: str) -> Iterator[Markup]:
    """What is written beside regions, the predicted ones first: of two in one place the first is seen."""
    for number, one in enumerate(shot.tags):
        yield tag(
            "data", one.text, value=number, data_row=image_id, data_region=number, **_place(shot, one, "predicted")
        )
    for one in shot.true_tags:
        yield tag("span", one.text, **_place(shot, one, "true"))


def _place(shot: Shot, one: Tag, kind: str) -> dict[str, str]:
    """Attributes that put a name to its region, in whatever size the picture is shown."""
    height, width = shot.size
    at = f"--x:{100 * one.left / width:.1f}%;--y:{100 * one.top / height:.1f}%"
    ink = ink_on(class_colour(one.class_id))
    return {"class_": f"name {kind}", "style": f"{class_style(one.class_id - 1)};--ink-on:{ink};{at}"}


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
