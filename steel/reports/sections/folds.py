"""The folds of a cross-validation beside each other."""

from steel.reports.html.charts import interval_chart
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join, table, tag
from steel.reports.sections.common import SCORE


def is_crossval(page: Figures) -> bool:
    """Whether the page is of a cross-validation, and no single checkpoint's."""
    return "per_fold" in page.metrics


def folds_section(page: Figures) -> Markup:
    """Scores of each fold, by the member that has not seen it: what the choice of images matters."""
    of_folds = page.metrics["per_fold"]
    rows = [(f"fold {fold}", found["mean_dice"], found["intervals"]["mean_dice"]) for fold, found in of_folds.items()]
    floors = [found["mean_dice_all_empty"] for found in of_folds.values()]
    chart = interval_chart(
        "Mean Dice of each fold, 95 % interval, and the floor (dotted)",
        [(*row, floor, None) for row, floor in zip(rows, floors, strict=True)],
    )
    names = ("mean_dice", "mean_dice_all_empty", "mean_dice_positive")
    lines = [
        [
            f"fold {fold}",
            page.show("per_fold", fold, "images"),
            *(page.show("per_fold", fold, name, form=SCORE) for name in names),
            *(_of_class(page, fold, name) for name in page.names),
        ]
        for fold in of_folds
    ]
    header = ["", "images", "mean Dice", "answering nothing", "positive Dice"]
    words = "Dice of a class, and the images of the fold that have it"
    note = "compare.html has the members beside each other as they were trained, each tuned on its own fold."
    return join(
        [
            tag("div", chart, class_="charts"),
            table([*header, *page.names], lines, caption=words),
            tag("p", note, class_="note"),
        ]
    )


def _of_class(page: Figures, fold: str, name: str) -> Markup:
    dice = page.show("per_fold", fold, "dice_per_class", name, form=SCORE)
    return join([dice, " (", page.show("per_fold", fold, "true_images_per_class", name), ")"])
