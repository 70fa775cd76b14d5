"""Pictures of what `explore_figures` found, as PNG bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from steel.images.pictures import class_colour, encode_picture, hex_colour
from steel.reports.explore_figures import PixelSurvey
from steel.reports.plots import encode_figure, new_figure

_CLEAN = "#8a929c"
_MAX_BARS = 8


def plot_classes(counts: Mapping[str, Any]) -> bytes:
    """Images a class, and of each combination of classes."""
    figure = new_figure(11, 3.4)
    left, right = figure.subplots(1, 2)
    names = ["clean", *counts["classes"]]
    values = [counts["clean"], *(figures["images"] for figures in counts["classes"].values())]
    colours = [_CLEAN, *(hex_colour(k) for k in range(1, len(names)))]
    _bars(left, names, values, colours)
    left.set_title("Images of each class")
    several = [entry for entry in counts["combinations"] if len(entry["classes"]) > 1]
    combinations = several[:_MAX_BARS]
    _bars(
        right, [" + ".join(entry["classes"]) for entry in combinations], [e["images"] for e in combinations], "#55606e"
    )
    left_out = len(several) - len(combinations)
    right.set_title("Images with several classes" + (f" ({left_out} rarer combinations left out)" if left_out else ""))
    return encode_figure(figure)


def _bars(panel: Any, names: Sequence[str], values: Sequence[int], colours: Any) -> None:
    bars = panel.barh(range(len(names)), values, color=colours)
    panel.bar_label(bars, padding=3, fontsize=8)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.margins(x=0.12)
    panel.spines[["top", "right"]].set_visible(False)
    if not names:
        panel.text(0.5, 0.5, "none", ha="center", transform=panel.transAxes, color="0.5")


def plot_areas(areas: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Distribution of mask areas on a logarithmic axis; `areas` is (N, C) pixels."""
    figure = new_figure(11, 3)
    panels = figure.subplots(1, len(class_names), squeeze=False, sharex=True)[0]
    found = areas[areas > 0]
    smallest, largest = (found.min(), found.max()) if found.size else (1, 1)
    bins = np.geomspace(smallest, largest + 1, 40)
    for class_id, (panel, name) in enumerate(zip(panels, class_names, strict=True), start=1):
        present = areas[:, class_id - 1]
        present = present[present > 0]
        panel.hist(present, bins=bins, color=hex_colour(class_id))
        if len(present):
            panel.axvline(np.median(present), color="0.2", linewidth=1)
        panel.set_xscale("log")
        panel.set_title(name)
        panel.set_xlabel("pixels")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("images")
    return encode_figure(figure)


def plot_gray_levels(survey: PixelSurvey, has: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Brightness and contrast of images, by class and clean; `has` is (n, C) bool for the surveyed images."""
    figure = new_figure(11, 3)
    panels = figure.subplots(1, 3)
    groups = [("clean", ~has.any(axis=1), _CLEAN)]
    groups += [(name, has[:, k], hex_colour(k + 1)) for k, name in enumerate(class_names)]
    columns = (
        ("Mean gray level", survey.mean, 255),
        ("Contrast (deviation)", survey.std, 128),
        ("Black share", survey.black, 1),
    )
    for panel, (title, values, top) in zip(panels, columns, strict=True):
        for name, chosen, colour in groups:
            if chosen.any():
                panel.hist(
                    values[chosen], bins=np.linspace(0, top, 33), weights=np.full(chosen.sum(), 1 / chosen.sum()),
                    histtype="step", linewidth=1.6, color=colour, label=name,
                )  # fmt: skip
        panel.set_title(title)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of images")
    panels[2].legend(fontsize=8)
    return encode_figure(figure)


def plot_regions(regions: Mapping[str, Sequence[int]]) -> bytes:
    """How many separate defects an image with the class has; the last bar stands for that many and more."""
    figure = new_figure(11, 2.8)
    panels = figure.subplots(1, len(regions), squeeze=False)[0]
    for class_id, (panel, (name, counts)) in enumerate(zip(panels, regions.items(), strict=True), start=1):
        panel.bar(np.arange(1, len(counts) + 1), counts, color=hex_colour(class_id))
        panel.set_title(name)
        panel.set_xlabel("regions in an image")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("images")
    return encode_figure(figure)


def plot_folds(folds: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> bytes:
    """Share of each fold's images that hold each class: bars of one class are level when the folds are balanced."""
    figure = new_figure(11, 2.8)
    panel = figure.subplots()
    width = 0.8 / (len(class_names) + 1)
    for number, name in enumerate(["clean", *class_names]):
        values = [(fold["classes"][name] if number else fold["clean"]) / max(1, fold["images"]) for fold in folds]
        colour = hex_colour(number) if number else _CLEAN
        panel.bar(np.arange(len(folds)) + number * width - 0.4, values, width, label=name, color=colour, align="edge")
    panel.set_xticks(range(len(folds)), [f"fold {fold['fold']}" for fold in folds])
    panel.set_ylabel("share of the fold")
    panel.legend(fontsize=8, ncols=len(class_names) + 1, loc="upper right")
    panel.margins(y=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    return encode_figure(figure)


def draw_heat(heat: np.ndarray, class_id: int) -> bytes:
    """Where a class lies: (h, w) share of masks that cover a place, from black to the class's colour."""
    strength = heat / max(float(heat.max()), 1e-12)
    colour = np.array(class_colour(class_id))
    low, high = np.minimum(1, 2 * strength)[..., None], np.maximum(0, 2 * strength - 1)[..., None]
    picture = (low * colour * (1 - high) + 255 * high).astype(np.uint8)  # black, the colour, white
    height = 96
    size = (round(height * heat.shape[1] / heat.shape[0]), height)
    return encode_picture(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR))
