"""Curves of a run. Without torch."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from steel.images.pictures import hex_colour
from steel.metrics.table import METRICS
from steel.storage import write_bytes


def plot_history(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw a run's curves: losses, scores, rate and speed over steps.

    Args:
        records: as in `history.jsonl`: `kind` is `train` or `validation`, `global_step` the place on the axis. Values
            that are missing or None are left out.
        path: PNG to write; at once and whole.
    """
    write_bytes(path, encode_figure(draw_history(records)))


def draw_history(records: Sequence[Mapping[str, Any]]) -> Any:
    """The same as a matplotlib figure: losses, scores, classes, and rate and speed in its four panels."""
    train = [record for record in records if record.get("kind") == "train"]
    validation = [record for record in records if record.get("kind") == "validation"]
    figure = new_figure(12, 7)
    panels = figure.subplots(2, 2)
    _plot_losses(panels[0, 0], train)
    _plot_scores(panels[0, 1], validation)
    _plot_classes(panels[1, 0], validation)
    _plot_speed(panels[1, 1], train)
    starts = _phase_starts(records)
    for panel in panels.flat:
        for start in starts[1:]:
            panel.axvline(start, color="0.6", linewidth=0.8, linestyle=":")
        panel.set_xlabel("step")
        panel.grid(alpha=0.25)
    figure.suptitle("Training curves" if len(starts) < 2 else "Training curves (dotted: a new phase)", fontsize=12)
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


def _series(
    records: Sequence[Mapping[str, Any]], name: str, part: str | None = None
) -> tuple[list[float], list[float]]:
    """Steps and values of the records that have a finite number under `name`, or under `part` of the mapping there."""
    steps, values = [], []
    for record in records:
        value = record.get(name)
        if part is not None:
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value):
            steps.append(float(record.get("global_step", record.get("step", 0))))
            values.append(float(value))
    return steps, values


def _phase_starts(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """The step before each phase's first record."""
    starts: dict[Any, float] = {}
    last = 0.0
    for record in records:
        if record.get("phase") not in starts:
            starts[record.get("phase")] = last
        last = float(record.get("global_step", record.get("step", last)))
    return list(starts.values())


_LOSS_STYLES: dict[str, dict[str, Any]] = {
    "loss": {"color": "0.15", "linewidth": 1.8},
    "loss_segmentation": {"color": "tab:green"},
    "loss_classification": {"color": "tab:orange"},
}
"""Of the losses that every run has; those of further heads take matplotlib's colours in turn."""


def _plot_losses(panel: Any, train: Sequence[Mapping[str, Any]]) -> None:
    heads = dict.fromkeys(name for record in train for name in record if name.startswith("loss_"))
    for name, label in {"loss": "all", **{name: name.removeprefix("loss_") for name in heads}}.items():
        x, y = _series(train, name)
        if x:
            panel.plot(x, y, label=label, **_LOSS_STYLES.get(name, {}))
    panel.set_title("Training loss")
    _legend(panel)


_SCORE_STYLES: dict[str, dict[str, Any]] = {
    "mean_dice": {"color": "tab:blue", "marker": "o"},
    "mean_dice_cross_fitted": {"color": "tab:blue", "marker": ".", "linestyle": ":"},
    "mean_dice_all_empty": {"color": "0.5", "linestyle": "--"},
    "mean_dice_positive": {"color": "tab:red", "marker": "o"},
    "miou": {"color": "tab:purple", "marker": "."},
}
"""Of the scores that every run has."""


def _plot_scores(panel: Any, validation: Sequence[Mapping[str, Any]]) -> None:
    curves = {name: metric.curve for name, metric in METRICS.items() if metric.curve}
    for name, label in {**curves, "mean_dice_cross_fitted": "mean Dice, cross-fitted"}.items():
        x, y = _series(validation, name)
        if x:
            panel.plot(x, y, label=label, markersize=4, **_SCORE_STYLES.get(name, {"marker": "."}))
    panel.set_title("Validation")
    panel.set_ylim(0, 1)
    _legend(panel)


def _plot_classes(panel: Any, validation: Sequence[Mapping[str, Any]]) -> None:
    scores = [record.get("dice_positive_per_class") for record in validation]
    names = list(dict.fromkeys(name for score in scores if isinstance(score, Mapping) for name in score))
    for class_id, name in enumerate(names, start=1):
        x, y = _series(validation, "dice_positive_per_class", name)
        panel.plot(x, y, color=hex_colour(class_id), marker="o", markersize=4, label=name)
    panel.set_title("Positive Dice by class")
    panel.set_ylim(0, 1)
    _legend(panel)


def _plot_speed(panel: Any, train: Sequence[Mapping[str, Any]]) -> None:
    x, y = _series(train, "lr")
    panel.plot(x, y, color="tab:blue")
    panel.set_ylim(bottom=0)
    panel.set_ylabel("learning rate", color="tab:blue")
    panel.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    other = panel.twinx()
    x, y = _series(train, "images_per_second")
    other.plot(x, y, color="tab:brown", linewidth=1)
    other.set_ylabel("images/s", color="tab:brown")
    other.set_ylim(bottom=0)
    panel.set_title("Learning rate and speed")


def _legend(panel: Any) -> None:
    if panel.lines:
        panel.legend(fontsize=8, framealpha=0.6)
