"""The decision, the ground around it, and other gates."""

from steel.gates import GATES
from steel.reports.html.charts import Axis, heat_chart, heat_sample
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, definitions, join, table, tag
from steel.reports.sections.common import SCORE, class_name
from steel.reports.sections.folds import is_crossval

_SHIPPED = (
    "This is the decision that is shipped, found on all folds; it and the gates are judged here by the images that "
    "they were found on, which flatters. All other scores of this page are by thresholds found on the other folds."
)
_UNASKED = (
    "Thresholds that the gate does not ask for are of the classification head by itself, and count in its own scores "
    "alone."
)


def thresholds_section(page: Figures) -> Markup:
    """The decision, each class's Dice over other thresholds, and the classic pipelines as gates."""
    show = page.show
    decision = page.metrics["decision"]
    gate = GATES[decision["gate"]]
    lines = [
        [
            class_name(name, k),
            page.probability("decision", "classes", k, "pixel_threshold"),
            page.probability("decision", "classes", k, "label_threshold"),
            show("decision", "classes", k, "min_area"),
            show("decision", "classes", k, "max_area", none_means="no limit"),
        ]
        for k, name in enumerate(page.names)
    ]
    grounds = []
    for k, name in enumerate(page.names):
        ground, chosen = page.metrics["landscape"][name], decision["classes"][k]
        columns = ground["pixel_thresholds"]
        place = (ground["min_areas"].index(chosen["min_area"]), columns.index(chosen["pixel_threshold"]))
        ticks = [(j, f"{t / 255:.2f}") for j, t in enumerate(columns)][:: max(1, len(columns) // 5)]
        areas = [_short_area(area) for area in ground["min_areas"]]
        x = Axis("pixel threshold (probability)", ticks)
        title = f"{name}: Dice over thresholds; the frame is the chosen one"
        scale = _scale(page, name, place, k)
        grounds.append(heat_chart(title, x, areas, "least area, pixels", ground["dice"], place, k, scale))
    gates = [
        [
            name,
            show("gates", name, "mean_dice", form=SCORE),
            page.span("gates", name, "interval", form=SCORE),
            page.span("gates", name, "gain_interval", form="+.4f", none_means="the first: others are held against it"),
            show("gates", name, "mean_dice_positive", form=SCORE),
        ]
        for name in page.metrics["gates"]
    ]
    header = ["", "pixel threshold", "label threshold", "least area", "largest area"]
    return join(
        [
            definitions(
                {
                    "gate": join([show("decision", "gate"), ": ", gate.meaning.format(any="its threshold")]),
                    "threshold for any defect": page.probability("decision", "binary_threshold"),
                }
            ),
            table(header, lines, caption="As decided"),
            "" if gate.asks_any and gate.asks_class else tag("p", _UNASKED, class_="note"),
            tag("p", _SHIPPED, class_="note") if is_crossval(page) else "",
            tag("div", *grounds, class_="charts"),
            table(
                ["gate", "mean Dice", "95 %", "over the first, 95 %", "positive Dice"],
                gates,
                caption="The classic pipelines as gates of this one model, each tuned for itself",
            )
            if gates
            else tag("p", "The checkpoint holds no other gates: it was never tuned.", class_="note"),
        ]
    )


def _scale(page: Figures, name: str, chosen: tuple[int, int], class_index: int) -> Markup:
    """The least and the most Dice of a class's ground, each with its colour, and the chosen one."""
    dice = page.metrics["landscape"][name]["dice"]
    places = [(value, i, j) for i, row in enumerate(dice) for j, value in enumerate(row)]
    (low, *least), (high, *most) = min(places), max(places)

    def at(i: int, j: int) -> Markup:
        return page.show("landscape", name, "dice", i, j, form=SCORE)

    if low == high:
        return join([heat_sample(class_index, 0.5), " ", at(*chosen), " everywhere"])
    ends = [heat_sample(class_index, 0), " ", at(*least), " to ", heat_sample(class_index, 1), " ", at(*most)]
    return join([*ends, "; chosen: ", at(*chosen)])


def _short_area(area: int) -> str:
    """A number of pixels as an axis has room for."""
    return f"{area}" if area < 10_000 else f"{area / 1000:.0f}k"
