"""Curves of a run. Without torch."""

import io
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steel.images.class_colours import line_colour
from steel.images.fonts import font_file, letters_of
from steel.metrics.table import METRICS
from steel.storage import write_bytes

Record = Mapping[str, Any]

_MARGIN = 0.02
"""Room beyond the last epoch, and below and above the values, as a share of what is drawn: for markers at the edge."""
_NAME_GAP = 3.0
"""Pixels between the names of two phases."""
_TRAINING_ALONE = "loss_deep_supervision"
_LONGEST_NAME = 24
"""Letters of a class in a legend, which has three columns."""


def plot_history(
    records: Sequence[Record], path: str | os.PathLike[str], staging: str | os.PathLike[str] | None = None
) -> None:
    """Draw a run's curves: losses, scores, rate and speed over epochs.

    Args:
        records: as in `history.jsonl`: `kind` is `train` or `validation`; `phase` and `epoch` are the place on the
            axis. Values that are missing or None are left out.
        path: PNG to write; at once and whole.
        staging: folder for what is not yet whole; see `steel.storage.open_write`.
    """
    write_bytes(path, encode_figure(draw_history(records)), staging=staging)


def draw_history(records: Sequence[Record]) -> Any:
    """The same as a matplotlib figure: a panel for each kind of figure that there is."""
    phases = _place_phases(records)
    painters = [painter for painter in _PANELS if painter(phases, None)]
    rows = max(1, math.ceil(len(painters) / 2))
    figure = new_figure(12, 3.6 * rows)
    if not painters:
        figure.text(0.5, 0.5, "no figures yet", ha="center", va="center", color="0.4", fontsize=14)
        return figure
    panels = list(figure.subplots(rows, min(2, len(painters)), squeeze=False).flat)
    for panel in panels[len(painters) :]:
        panel.remove()
    for painter, panel in zip(painters, panels, strict=False):
        painter(phases, panel)
        _finish_panel(panel, phases[-1].end)
        if len(phases) > 1:
            _mark_phases(panel, phases)
    _fit_phase_names(figure, phases)
    return figure


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches, bound to no window and to no global state."""
    from matplotlib.figure import Figure  # here, as the import takes a while

    return Figure(figsize=(width, height), layout="constrained")


def encode_figure(figure: Any) -> bytes:
    """A matplotlib figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Phase:
    """What a phase has recorded."""

    number: int
    start: float
    """Epochs of all phases before it."""
    end: float
    train: list[Record]
    validation: list[Record]

    def series(self, kind: str, name: str, part: str | None = None) -> tuple[list[float], list[float]]:
        """Epochs of the run, and values, of the records that have a finite number under `name`, or under `part` of the
        mapping there."""
        x, y = [], []
        for record in self.train if kind == "train" else self.validation:
            value = record.get(name)
            if part is not None:
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, int | float) and math.isfinite(value):
                x.append(self.start + _epoch(record))
                y.append(float(value))
        return x, y


def _place_phases(records: Sequence[Record]) -> list[_Phase]:
    """The phases one after another on one axis of epochs, each as long as it has been trained."""
    phases: list[_Phase] = []
    for number in sorted({record["phase"] for record in records if "phase" in record}):
        mine = [record for record in records if record.get("phase") == number]
        start = phases[-1].end if phases else 0.0
        end = start + max(_epoch(record) for record in mine)
        kinds = ([_of_the_heads(r) for r in mine if r.get("kind") == kind] for kind in ("train", "validation"))
        phases.append(_Phase(number, start, end, *kinds))
    return phases


def _of_the_heads(record: Record) -> Record:
    """The record, its loss without what coarser stages add in training alone: beside the loss of validation."""
    added, loss = record.get(_TRAINING_ALONE), record.get("loss")
    return record if added is None or loss is None else {**record, "loss": loss - added}


def _epoch(record: Record) -> float:
    epoch = record.get("epoch")
    return float(epoch) if isinstance(epoch, int | float) and math.isfinite(epoch) else 0.0


def _finish_panel(panel: Any, end: float) -> None:
    """What all panels have alike: epochs from the run's first to `end`, with room for the last marker; a legend below,
    where it hides no curve."""
    panel.set_xlim(0, (1 + _MARGIN) * end or 1.0)
    panel.xaxis.get_major_locator().set_params(integer=end >= 3, steps=[1, 2, 5, 10])
    low, high = min(0.0, panel.dataLim.y0), panel.get_ylim()[1]
    panel.set_ylim(low - _MARGIN * (high - low), high + _MARGIN * (high - low))
    panel.set_xlabel("epoch")
    panel.grid(alpha=0.25)
    if lines := panel.get_legend_handles_labels()[0]:
        columns = 4 if len(lines) <= 4 else 3
        legend = panel.legend(fontsize=8, ncols=columns, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        for text in legend.get_texts():
            text.set(font=font_file(text.get_text()), fontsize=8)


def _mark_phases(panel: Any, phases: Sequence[_Phase]) -> None:
    """A line where a phase begins, and its name above its middle."""
    for phase in phases:
        if phase.start > 0:
            panel.axvline(phase.start, color="0.5", linewidth=0.9, linestyle=":")
        panel.text(
            *((phase.start + phase.end) / 2, 1.01),
            f"phase {phase.number + 1}",
            transform=panel.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=7,
            color="0.4",
        )


def _fit_phase_names(figure: Any, phases: Sequence[_Phase]) -> None:
    """Of a phase narrower than its name the number alone; no name where that, too, would touch the one before."""
    if len(phases) < 2:
        return
    figure.draw_without_rendering()  # sets the panels' widths
    for panel in figure.axes:
        taken = -math.inf
        for name, phase in zip(panel.texts, phases, strict=False):
            (left, _), (right, _) = panel.transData.transform([(phase.start, 0), (phase.end, 0)])
            if name.get_window_extent().width > right - left:
                name.set_text(f"{phase.number + 1}")
            box = name.get_window_extent()
            if box.x0 < taken:
                name.set_visible(False)
            else:
                taken = box.x1 + _NAME_GAP


def _draw(panel: Any, phases: Sequence[_Phase], kind: str, name: str, part: str | None = None, **style: Any) -> bool:
    """Draw a figure; whether there is any of it. With no panel nothing is drawn.

    Scores mean the same in every phase, and take one line. All else takes a line per phase.
    """
    lines = [(x, y) for x, y in (phase.series(kind, name, part) for phase in phases) if x]
    if lines and kind == "validation" and not name.startswith("loss"):
        x, y = (list(itertools.chain(*values)) for values in zip(*lines, strict=True))
        lines = [(x, y)]
    if panel is not None:
        label = style.pop("label", None)
        for number, (x, y) in enumerate(lines):
            alone = {} if len(x) > 1 or "marker" in style else {"marker": "."}
            panel.plot(x, y, label=label if number == 0 else None, **style, **alone)
    return bool(lines)


_LOSS_COLOURS = {"loss": "0.15", "loss_segmentation": "tab:green", "loss_classification": "tab:orange"}
"""Of the losses that every run has; those of further heads take matplotlib's colours in turn."""


def _paint_losses(phases: Sequence[_Phase], panel: Any) -> bool:
    """Each phase has losses of its own, which no line joins."""
    if panel is not None:
        panel.set_title("Loss", pad=14)
    records = [record for phase in phases for record in (*phase.train, *phase.validation)]
    heads = dict.fromkeys(name for record in records for name in record if name.startswith("loss_"))
    others = itertools.cycle(["tab:purple", "tab:pink", "tab:olive", "tab:cyan"])
    drawn = []
    for name in ("loss", *(heads if len(heads) > 1 else ())):
        colour = _LOSS_COLOURS.get(name) or next(others)
        words = "all" if name == "loss" else name.removeprefix("loss_").replace("_", " ")
        width = 1.8 if name == "loss" else 1.1
        drawn.append(_draw(panel, phases, "train", name, label=words, color=colour, linewidth=width))
        drawn.append(
            _draw(
                *(panel, phases, "validation", name),
                label=f"{words}, validation",
                color=colour,
                linewidth=width,
                linestyle="--",
                marker="o",
                markersize=3.5,
            )
        )
    return any(drawn)


_SCORE_STYLES: dict[str, dict[str, Any]] = {
    "mean_dice": {"color": "tab:blue", "marker": "o"},
    "mean_dice_cross_fitted": {"color": "tab:blue", "marker": ".", "linestyle": ":"},
    "mean_dice_all_empty": {"color": "0.5", "linestyle": "--"},
    "mean_dice_positive": {"color": "tab:red", "marker": "o"},
    "miou": {"color": "tab:purple", "marker": "."},
}
"""Of the scores that every run has."""


def _paint_scores(phases: Sequence[_Phase], panel: Any) -> bool:
    if panel is not None:
        panel.set_title("Validation scores", pad=14)
        panel.set_ylim(0, 1)
    curves = {name: metric.curve for name, metric in METRICS.items() if metric.curve}
    drawn = [
        _draw(
            *(panel, phases, "validation", name),
            label=label,
            **{"markersize": 4, **_SCORE_STYLES.get(name, {"marker": "."})},
        )
        for name, label in {**curves, "mean_dice_cross_fitted": "mean Dice, cross-fitted"}.items()
    ]
    return any(drawn)


def _paint_classes(name: str, title: str) -> Callable[[Sequence[_Phase], Any], bool]:
    """A painter of a score that each class has."""

    def paint(phases: Sequence[_Phase], panel: Any) -> bool:
        if panel is not None:
            panel.set_title(title, pad=14)
            panel.set_ylim(0, 1)
        scores = [record.get(name) for phase in phases for record in phase.validation]
        classes = list(dict.fromkeys(key for score in scores if isinstance(score, Mapping) for key in score))
        styles = [
            {"color": "0.15", "linestyle": "--"} if key == "any" else {"color": line_colour(class_id)}
            for class_id, key in enumerate(classes, start="any" not in classes)
        ]
        drawn = [
            _draw(panel, phases, "validation", name, key, label=_legend_name(key), marker="o", markersize=4, **style)
            for key, style in zip(classes, styles, strict=True)
        ]
        return any(drawn)

    return paint


def _legend_name(name: str) -> str:
    """A class's name as a legend has room for, without what matplotlib takes for a formula or cannot draw.

    The middle is cut: names of one data set often begin, and often end, alike.
    """
    tail = (_LONGEST_NAME - 1) // 2
    head = _LONGEST_NAME - 1 - tail
    short = name if len(name) <= _LONGEST_NAME else f"{name[:head].rstrip()}…{name[-tail:].lstrip()}"
    path = font_file(short)
    known = set(short) if path is None else letters_of(path, short)
    text = "".join(letter if letter in known else "□" for letter in short).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # one that begins so is in no legend


def _paint_rate(phases: Sequence[_Phase], panel: Any) -> bool:
    if panel is not None:
        panel.set_title("Learning rate", pad=14)
        panel.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    return _draw(panel, phases, "train", "lr", color="tab:blue")


def _paint_speed(phases: Sequence[_Phase], panel: Any) -> bool:
    if panel is None:
        return _draw(None, phases, "train", "images_per_second")
    panel.set_title("Speed", pad=14)
    panel.set_ylabel("images/s")
    drawn = _draw(panel, phases, "train", "images_per_second", label="images/s", color="tab:brown", linewidth=1)
    if _draw(None, phases, "train", "data_wait"):
        other = panel.twinx()
        _draw(other, phases, "train", "data_wait", color="tab:cyan", linewidth=1)
        panel.plot([], [], color="tab:cyan", linewidth=1, label="share of time waiting for data")
        other.set_ylabel("time waiting for data")
        other.set_ylim(-_MARGIN, 1 + _MARGIN)
        other.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    return drawn


_PANELS: tuple[Callable[[Sequence[_Phase], Any], bool], ...] = (
    _paint_losses,
    _paint_scores,
    _paint_classes("dice_positive_per_class", "Positive Dice by class"),
    _paint_classes("f1", "F1 of the classification head"),
    _paint_rate,
    _paint_speed,
)
"""Each draws its panel, and says whether it has anything to draw; given no panel, it only says."""
