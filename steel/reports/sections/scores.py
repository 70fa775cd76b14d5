"""Scores beside their floor, and what is taken for what."""

from collections.abc import Mapping

from steel.labels.classes import beside_classes
from steel.metrics.table import METRICS, headings
from steel.reports.html.charts import interval_chart
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join, table, tag
from steel.reports.sections.common import SCORE, class_name, tinted_table


def scores_section(page: Figures) -> Markup:
    """Every metric of the table, over all classes and of each class, with intervals and floors."""
    metrics, show = page.metrics, page.show
    names = {
        name: metric.heading or name.replace("miou", "mean_IoU").replace("_", " ")
        for name, metric in METRICS.items()
        if isinstance(metrics[name], float | None)
    }
    columns = headings(metrics, per_class=True)
    rows = [
        [names[name], show(name, form=SCORE), page.span("intervals", name, form=SCORE) if _spans(page, name) else ""]
        for name in names
    ]
    if metrics["cross_fitted"] is not None:
        rows.insert(1, ["mean Dice, cross-fitted", show("cross_fitted", "mean_dice", form=SCORE), ""])
    lines = [
        [
            class_name(name, k),
            *(show(key, name, form=SCORE) for key in columns),
            *(show("pixels", name, key, form=SCORE) for key in ("precision", "recall")),
            show("classification", name, "f1", form=SCORE),
            show("true_images_per_class", name),
            show("predicted_images_per_class", name),
        ]
        for k, name in enumerate(page.names)
    ]
    header = ["", *columns.values(), "pixel precision", "pixel recall", "head F1", "images true"]
    return join(
        [
            tag(
                "div",
                *_charts(page, {name: words for name, words in names.items() if _spans(page, name)}),
                class_="charts",
            ),
            table(["", "score", "95 %"], rows, caption="Overall"),
            table([*header, "predicted"], lines, caption="Each class, as decided"),
        ]
    )


def _spans(page: Figures, name: str) -> bool:
    return name in page.metrics["intervals"]


def _charts(page: Figures, overall: Mapping[str, str]) -> list[Markup]:
    metrics = page.metrics
    floors = {"mean_dice": metrics["mean_dice_all_empty"], "mean_dice_positive": 0.0}
    images, true = metrics["images"], metrics["true_images_per_class"]
    return [
        interval_chart(
            "Overall: score, 95 % interval, and the floor (dotted)",
            [(words, metrics[key], metrics["intervals"][key], floors.get(key), None) for key, words in overall.items()],
        ),
        interval_chart(
            "Dice of each class, and the floor: never answering it",
            [(n, metrics["dice_per_class"][n], None, 1 - true[n] / images, k) for k, n in enumerate(page.names)],
        ),
        interval_chart(
            "Positive Dice: only images that have the class",
            [(n, metrics["dice_positive_per_class"][n], None, 0.0, k) for k, n in enumerate(page.names)],
        ),
    ]


def confusion_section(page: Figures) -> Markup:
    """Which class is taken for which, in images and in pixels."""
    pixels = page.metrics["confusion"]["pixels"]
    parts = [_matrix(page, "images", "clean", "Images: rows are true, columns predicted")]
    if pixels is not None:
        parts.append(_matrix(page, "pixels", "background", "Pixels: rows are true, columns predicted"))
    note = "An image or pixel with two classes is counted in the row of each. The tint is the share of the row."
    return join([*parts, tag("p", note, class_="note")])


def _matrix(page: Figures, what: str, nothing: str, caption: str) -> Markup:
    nothing = beside_classes(nothing, page.names)
    shares = [[value / (sum(row) or 1) for value in row] for row in page.metrics["confusion"][what]]
    names = [class_name(name, i - 1) for i, name in enumerate((nothing, *page.names))]
    return tinted_table(page, ("confusion", what), names, ["", nothing, *page.names], shares, caption)
