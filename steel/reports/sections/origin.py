"""Labels in doubt, speed and provenance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, definitions, escape, join, table, tag

_IMAGES_LISTED = 25
PER_IMAGE = 3
"""Regions of an image that are listed, and marked in its picture."""


def labels_section(page: Figures, doubts: Sequence[Mapping[str, Any]], shown: Mapping[str, int]) -> Markup:
    """The regions that raise most doubt about their labels.

    Args:
        page: the numbers.
        doubts: the lines of `label_doubts.csv`.
        shown: image ids to rows of the images in the gallery, to link to.
    """
    show = page.show
    intro = tag(
        "p",
        "Regions where the model is confident and the label says otherwise, weighed by how often the model is "
        "right elsewhere. ",
        show("label_doubts", "regions"),
        " regions in ",
        show("label_doubts", "images"),
        " images; all of them are in label_doubts.csv, to hand back to the labelling tool.",
    )
    if not doubts:
        return join([intro, tag("p", "No label is in doubt.", class_="note")])
    if not page.metrics["verdict"]["better_than_nothing"]:
        warning = "This model is not shown to be better than answering nothing: what it doubts says little."
        intro = join([intro, tag("p", warning, class_="warn")])
    lines = [_doubt(number, line, shown) for number, line in _strongest(doubts)]
    header = ["image", "class", "claim against the label", "doubt: image", "region", "confidence", "pixels"]
    caption = f"The most doubtful image first, up to {PER_IMAGE} regions of each"
    return join([intro, table([*header, "left, top; width × height"], lines, caption=caption, class_="texts")])


def _strongest(doubts: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """The lines that are listed, with their numbers: the first of each of the first images."""
    listed: list[tuple[int, Mapping[str, Any]]] = []
    of_image: Counter[str] = Counter()
    for number, line in enumerate(doubts):
        of_image[line["image_id"]] += 1
        if of_image[line["image_id"]] <= PER_IMAGE and len(of_image) <= _IMAGES_LISTED:
            listed.append((number, line))
    return listed


def _doubt(number: int, line: Mapping[str, Any], shown: Mapping[str, int]) -> list[Markup]:
    def own(column: str, form: str = "") -> Markup:
        return tag("data", format(line[column], form), value=line[column], data_line=number, data_column=column)

    name = line["image_id"]
    link = tag("a", name, href=f"#image-{shown[name]}") if name in shown else escape(name)
    place = join([own("left"), ", ", own("top"), "; ", own("width"), " × ", own("height")])
    doubts = [own("image_doubt", ".2f"), own("region_doubt", ".2f")]
    numbers = [*doubts, own("confidence", ".2f"), own("pixels", ",")]
    return [link, own("class"), own("claim"), *numbers, place]


def origin_section(page: Figures) -> Markup:
    """How fast, what was evaluated on what, and why it was trained as it was."""
    parts: list[object] = []
    for what, heading in (("speed", "Speed"), ("provenance", "Provenance"), ("recipe", "Why this recipe")):
        if page.metrics.get(what):
            parts.append(tag("h3", heading))
            parts.append(
                definitions(
                    {
                        name.replace("_", " "): page.show(what, name, form=_form(value))
                        for name, value in page.metrics[what].items()
                    }
                )
            )
    return join(parts)


def _form(value: Any) -> str:
    return ",.4g" if isinstance(value, float) else ""
