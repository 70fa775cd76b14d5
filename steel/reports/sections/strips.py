"""Defective strips found and clean ones stopped, at the decision and at any other operating point."""

from collections.abc import Sequence
from typing import Any

from steel.reports.html.charts import PLOT_BOX, Axis, Series, line_chart
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join, table, tag, void
from steel.reports.sections.common import PERCENT, class_name, tile
from steel.reports.sections.folds import is_crossval


def strips_section(page: Figures) -> Markup:
    """Found and stopped strips as decided, and the controls of other operating points."""
    show, span = page.show, page.span
    lines = []
    for i, name in enumerate(page.all_names):
        at = ("strips", name)
        lines.append(
            [
                class_name(name, i - 1),
                show(*at, "defective"),
                show(*at, "found"),
                show(*at, "missed"),
                show(*at, "found_share", form=PERCENT),
                span(*at, "found_interval", form=PERCENT),
                show(*at, "clean"),
                show(*at, "stopped"),
                show(*at, "stopped_share", form=PERCENT),
                span(*at, "stopped_interval", form=PERCENT),
            ]
        )
    header = ["", "with defect", "found", "missed", "share found", "95 %", "without", "stopped", "share stopped"]
    return join(
        [
            tag(
                "p",
                "A strip is one image. As decided, a strip is stopped when any pixel of a defect is predicted in it; "
                "in the line of a class, when that class is.",
            ),
            table([*header, "95 %"], lines, caption=f"At the decision {_whose(page)}"),
            tag("h3", "At another operating point"),
            _operating_controls(page.all_names, _whose(page)),
        ]
    )


def operating_data(page: Figures) -> dict[str, Any]:
    """What the slider needs: the counts, and where the head's own thresholds are."""
    decision = page.metrics["decision"]
    own = [decision["binary_threshold"], *(one["label_threshold"] for one in decision["classes"])]
    return {
        "strips": page.metrics["strips"],
        "curves": page.metrics["operating_curves"],
        "own": dict(zip(page.all_names, own, strict=True)),
    }


def _whose(page: Figures) -> str:
    return "found on the other folds" if is_crossval(page) else "of the checkpoint"


def _operating_controls(names: Sequence[str], whose: str) -> Markup:
    """The slider with its counts and its plot; the script fills them in."""
    rules = {
        "head_and_mask": "a mask is predicted and the head agrees",
        "head": "the head alone says so",
    }
    threshold = tag("output", id="at-threshold", for_="threshold")
    slider = void("input", type="range", id="threshold", min=0, max=255, step=1, value=128)
    controls = [
        tag(
            "label", "defect", tag("select", *(tag("option", name, value=name) for name in names), id="operating-class")
        ),
        tag(
            "label",
            "a strip is stopped where",
            tag("select", *(tag("option", words, value=rule) for rule, words in rules.items()), id="operating-rule"),
        ),
        tag("label", tag("span", "threshold of the head's probability: ", threshold), slider),
        tag("button", "reset", type="button", id="operating-reset"),
    ]
    tiles = [
        _live("defective strips found", "found", "defective"),
        _live("clean strips stopped", "stopped", "clean"),
        tile("defective and missed", tag("data", id="at-missed")),
        tile("clean and passed", tag("data", id="at-passed")),
    ]
    x, y = Axis("share of clean strips that are stopped"), Axis("share of defective strips found")
    marks = [
        void("path", id="operating-other", class_="guide"),
        void("path", id="operating-line", class_="line", style="--c:var(--accent)"),
        void("circle", id="dot", r=8),  # large enough for the cross, above it, to be seen inside
        tag("g", void("path", class_="chosen", d="M-6 -6L6 6M-6 6L6 -6"), id="shipped"),
    ]
    title = f"All operating points, dotted those of the other rule; × is the decision {whose}"
    plot = line_chart(title, x, y, [Series("", [(0.0, 0.0)])], extra=join(marks))
    left, right, top, bottom = PLOT_BOX
    return join(
        [
            tag("noscript", tag("p", "The slider needs JavaScript; the table above does not.", class_="note")),
            tag("div", *controls, class_="controls"),
            tag("p", id="operating-note", class_="note", role="status"),
            tag(
                "div",
                tag("div", *tiles, class_="tiles", aria_live="polite"),
                tag(
                    "div", plot, id="operating-plot", data_left=left, data_right=right, data_top=top, data_bottom=bottom
                ),
                class_="operating",
            ),
        ]
    )


def _live(words: str, part: str, whole: str) -> Markup:
    numbers = join([tag("data", id=f"at-{part}"), " of ", tag("data", id=f"at-{whole}")])
    return tile(words, numbers, tag("span", id=f"at-{part}-share"))
