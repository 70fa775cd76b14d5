"""Curves over all thresholds, and whether probabilities can be believed."""

from collections.abc import Sequence

from steel.labels.classes import ANY
from steel.reports.html.charts import Axis, Series, line_chart
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join, table, tag
from steel.reports.sections.common import SCORE, class_name

_AREAS = ("average_precision", "roc_area")


def curves_section(page: Figures) -> Markup:
    """Precision over recall and ROC, of images by the head and of pixels."""
    head_pr, head_roc, pixel_pr, pixel_roc = [], [], [], []
    for i, name in enumerate(page.all_names):
        k = None if name == ANY else i - 1
        strips, curve = page.metrics["strips"][name], page.metrics["operating_curves"][name]["head"]
        pr, roc = _curve_points(curve["found"], curve["stopped"], strips["defective"], strips["clean"])
        head_pr.append(Series(name, pr, k))
        head_roc.append(Series(name, roc, k))
    for k, name in enumerate(page.names):
        of = page.metrics["pixels"][name]
        pr, roc = _curve_points(of["found"], of["false"], of["found"][0], of["false"][0])
        pixel_pr.append(Series(name, pr, k))
        pixel_roc.append(Series(name, roc, k))
    recall, precision = Axis("recall"), Axis("precision")
    false, found = Axis("false-positive rate"), Axis("recall")
    charts = [
        line_chart("Images: precision and recall of the head", recall, precision, head_pr),
        line_chart("Images: ROC of the head", false, found, head_roc, diagonal=True),
        line_chart("Pixels: precision and recall", recall, precision, pixel_pr),
        line_chart("Pixels: ROC", false, found, pixel_roc, diagonal=True),
    ]
    show = page.show
    lines = [
        [
            class_name(name, i - 1),
            *(show("head", name, key, form=SCORE) for key in ("average_precision", "roc_area")),
            *((show("pixels", name, key, form=SCORE) if name != ANY else "") for key in _AREAS),
        ]
        for i, name in enumerate(page.all_names)
    ]
    header = ["", "images: average precision", "images: ROC area", "pixels: average precision", "pixels: ROC area"]
    return join([tag("div", *charts, class_="charts"), table(header, lines, caption="Areas under the curves")])


def calibration_section(page: Figures) -> Markup:
    """Reliability diagrams and expected calibration errors."""
    show = page.show

    def chart(title: str, what: str, names: Sequence[str]) -> Markup:
        series = []
        for name in names:
            bins = page.metrics[what][name]["reliability"]
            points = [(p, o) for p, o in zip(bins["predicted"], bins["observed"], strict=True) if p is not None]
            series.append(Series(name, points, None if name == ANY else page.names.index(name), dots=True))
        x, y = Axis("predicted probability"), Axis("share that is so")
        return line_chart(title, x, y, series, diagonal=True)

    lines = [
        [
            class_name(name, i - 1),
            show("head", name, "calibration_error", form=SCORE),
            show("pixels", name, "calibration_error", form=".5f") if name != ANY else "",
        ]
        for i, name in enumerate(page.all_names)
    ]
    charts = [
        chart("Images: the head's probabilities", "head", page.all_names),
        chart("Pixels", "pixels", page.names),
    ]
    return join(
        [
            tag(
                "p",
                "On the diagonal, what is given a probability of 0.7 is so in 70 of 100 cases. Below it the "
                "model is too sure, above it not sure enough.",
                class_="note",
            ),
            tag("div", *charts, class_="charts"),
            table(["", "of the head, images", "of pixels"], lines, caption="Expected calibration error"),
        ]
    )


def _curve_points(
    found: Sequence[int], false: Sequence[int], positives: int, negatives: int
) -> tuple[list[tuple[float, float | None]], list[tuple[float, float | None]]]:
    """Points of the precision-recall and of the ROC curve; none where a curve has no meaning."""
    if not positives:
        return [], []
    pairs = [(f, n) for f, n in zip(found, false, strict=True) if f + n]
    pr: list[tuple[float, float | None]] = [(f / positives, f / (f + n)) for f, n in pairs]
    if not negatives:
        return pr, []
    return pr, [*((n / negatives, f / positives) for f, n in pairs), (0.0, 0.0)]
