"""Scores beside their floor, and what is taken for what."""

from steel.reports.html.charts import interval_chart
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join, table, tag
from steel.reports.sections.common import SCORE, class_name, tinted_table

CLASS_SCORES = ("dice_per_class", "dice_positive_per_class", "iou_per_class")


def scores_section(page: Figures) -> Markup:
    """Scores over all classes and of each, with intervals, floors, precision and recall."""
    show, span = page.show, page.span
    intervals = page.metrics["intervals"]
    names = {
        "mean_dice": "mean Dice",
        "mean_dice_positive": "positive Dice",
        "miou": "mean IoU",
        "miou_with_background": "with background",
    }
    floors = {"mean_dice": page.metrics["mean_dice_all_empty"], "mean_dice_positive": 0.0}
    overall = interval_chart(
        "Overall: score, 95 % interval, and the floor (dotted)",
        [(words, page.metrics[key], intervals[key], floors.get(key), None) for key, words in names.items()],
    )
    images, true = page.metrics["images"], page.metrics["true_images_per_class"]
    of_class = interval_chart(
        "Dice of each class, and the floor: never answering it",
        [(n, page.metrics["dice_per_class"][n], None, 1 - true[n] / images, k) for k, n in enumerate(page.names)],
    )
    positive = interval_chart(
        "Positive Dice: only images that have the class",
        [(n, page.metrics["dice_positive_per_class"][n], None, 0.0, k) for k, n in enumerate(page.names)],
    )
    rows = [[words, show(key, form=SCORE), span("intervals", key, form=SCORE)] for key, words in names.items()]
    rows.insert(1, ["mean Dice of answering nothing", show("mean_dice_all_empty", form=SCORE), ""])
    if page.metrics["cross_fitted"] is not None:
        rows.insert(1, ["mean Dice, cross-fitted", show("cross_fitted", "mean_dice", form=SCORE), ""])
    lines = [
        [
            class_name(name, k),
            *(show(key, name, form=SCORE) for key in CLASS_SCORES),
            *(show("pixels", name, key, form=SCORE) for key in ("precision", "recall")),
            show("classification", name, "f1", form=SCORE),
            show("true_images_per_class", name),
            show("predicted_images_per_class", name),
        ]
        for k, name in enumerate(page.names)
    ]
    header = ["", "Dice", "positive Dice", "IoU", "pixel precision", "pixel recall", "head F1", "images true"]
    return join(
        [
            tag("div", overall, of_class, positive, class_="charts"),
            table(["", "score", "95 %"], rows, caption="Overall"),
            table([*header, "predicted"], lines, caption="Each class, as decided"),
        ]
    )


def confusion_section(page: Figures) -> Markup:
    """Which class is taken for which, in images and in pixels."""
    pixels = page.metrics["confusion"]["pixels"]
    parts = [_matrix(page, "images", "clean", "Images: rows are true, columns predicted")]
    if pixels is not None:
        parts.append(_matrix(page, "pixels", "background", "Pixels: rows are true, columns predicted"))
    note = "An image or pixel with two classes is counted in the row of each. The tint is the share of the row."
    return join([*parts, tag("p", note, class_="note")])


def _matrix(page: Figures, what: str, nothing: str, caption: str) -> Markup:
    shares = [[value / (sum(row) or 1) for value in row] for row in page.metrics["confusion"][what]]
    names = [class_name(name, i - 1) for i, name in enumerate((nothing, *page.names))]
    return tinted_table(page, ("confusion", what), names, ["", nothing, *page.names], shares, caption)
