"""What a data set holds, in numbers: of all images from their labels, of a part of them from their pixels."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from steel.images.geometry import resize_image
from steel.images.strip import is_black
from steel.labels.classes import beside_classes
from steel.reports.explore_data import ExploredData

NUM_SIZES = 8
"""The most frequent sizes that are listed; all are counted."""
MOST_REGIONS = 20
"""An image's regions are counted up to here, and more than that as so many."""
_HEAT_SIDE = 48
"""Places along the shorter side of an image ..."""
_MOST_HEAT_SIDE = 640
"""... and at most along the longer one: of still longer images they are not square."""


@dataclass(frozen=True)
class PixelSurvey:
    """What was measured on the pixels of `n` images.

    Attributes:
        rows: (n,) int, their rows.
        mean: (n,) float, mean gray level of the strip (black pixels left out), 0 to 255; 0 when all is black.
        std: (n,) float, its standard deviation.
        black: (n,) float, share of black pixels.
        regions: (n, C) int, separate regions of each class; pixels that touch at a corner are of one.
        smallest: (n, C) int, pixels of the smallest of them; 0 without any.
        heat: (C, h, w) float, share of these images' masks of each class that cover a place; 0 without any.
    """

    rows: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    black: np.ndarray
    regions: np.ndarray
    smallest: np.ndarray
    heat: np.ndarray


def survey_pixels(
    data: ExploredData, rows: np.ndarray, on_image: Callable[[int, int], None] | None = None
) -> PixelSurvey:
    """Read the images of `rows` and measure them; `on_image` hears (done, all) after each.

    Raises:
        BadSampleError, ValidationErrors: an image is damaged.
    """
    num_classes = len(data.class_names)
    aspect = float(np.median(data.sizes[rows, 1] / data.sizes[rows, 0]))
    heat = np.zeros((num_classes, *_heat_size(aspect)), np.float64)
    with_class = np.zeros(num_classes)
    levels = np.zeros((len(rows), 3))
    regions, smallest = np.zeros((2, len(rows), num_classes), int)
    for number, row in enumerate(rows.tolist()):
        image, bitmask = data.read(row)
        levels[number] = _levels(image)
        for k in np.flatnonzero(data.areas[row]):
            mask = (bitmask >> k & 1).astype(np.uint8)
            _, _, found, _ = cv2.connectedComponentsWithStats(mask)
            areas = found[1:, cv2.CC_STAT_AREA]
            regions[number, k], smallest[number, k] = len(areas), areas.min(initial=mask.size)
            heat[k] += resize_image(mask.astype(np.float32), heat.shape[1:])
            with_class[k] += 1
        if on_image is not None:
            on_image(number + 1, len(rows))
    heat /= np.maximum(with_class, 1)[:, None, None]
    return PixelSurvey(rows, levels[:, 0], levels[:, 1], levels[:, 2], regions, smallest, heat)


def _heat_size(aspect: float) -> tuple[int, int]:
    """How many places images of an aspect, width by height, have down and across."""
    longer = min(_MOST_HEAT_SIDE, round(_HEAT_SIDE * max(aspect, 1 / aspect)))
    return (_HEAT_SIDE, longer) if aspect >= 1 else (longer, _HEAT_SIDE)


def _levels(image: np.ndarray) -> tuple[float, float, float]:
    """Mean and deviation of the pixels that are not black, and the share of those that are."""
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    strip = ~is_black(gray)
    if not strip.any():
        return 0.0, 0.0, 1.0
    mean, std = cv2.meanStdDev(gray, mask=strip.astype(np.uint8))
    return float(mean[0, 0]), float(std[0, 0]), 1 - float(strip.mean())


def count_figures(data: ExploredData) -> dict[str, Any]:
    """Everything that the labels alone tell, over all images, in plain JSON values."""
    has = data.has
    sizes = Counter(map(tuple, data.sizes.tolist()))
    return {
        "images": len(data),
        "clean": int((~has.any(axis=1)).sum()),
        "defective": int(has.any(axis=1).sum()),
        "channels": data.channels,
        "num_sizes": len(sizes),
        "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in sizes.most_common(NUM_SIZES)],
        "resized": data.resized,
        "classes": {name: _class_figures(data, k) for k, name in enumerate(data.class_names)},
        "area_octaves": _octaves(data),
        "combinations": _combinations(data.class_names, has),
        "folds": [] if data.fold is None else _folds(data.class_names, data.fold, has),
        "duplicates": _duplicates(data.group),
    }


_QUANTILES = ("smallest", "lower_quartile", "median", "upper_quartile", "largest")


def _class_figures(data: ExploredData, k: int) -> dict[str, Any]:
    """Of a class: how many images have it, its areas in pixels and as a share of the image."""
    has = data.has[:, k]
    figures: dict[str, Any] = {"images": int(has.sum()), "share": float(has.mean()) if len(has) else 0.0}
    if has.any():
        present = data.areas[has, k].astype(float)
        shares = present / data.sizes[has].prod(axis=1)
        for key, values in (("area", present), ("area_share", shares)):
            quantiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
            figures[key] = {
                **dict(zip(_QUANTILES, quantiles, strict=True)),
                "mean": float(values.mean()),
                "std": float(values.std()),
            }
    return figures


def _octaves(data: ExploredData) -> dict[str, Any]:
    """How many images have an area of each class between 2^i and 2^(i + 1) pixels, from the lowest such i on."""
    octaves = [np.log2(areas[areas > 0]).astype(int) for areas in data.areas.T]
    every = np.concatenate(octaves) if octaves else np.zeros(0, int)
    low = int(every.min()) if len(every) else 0
    length = int(every.max()) - low + 1 if len(every) else 0
    return {
        "lowest": low,
        "images": {
            name: np.bincount(found - low, minlength=length).tolist()
            for name, found in zip(data.class_names, octaves, strict=True)
        },
    }


def _combinations(names: Sequence[str], has: np.ndarray) -> list[dict[str, Any]]:
    """Which classes occur together, the most frequent combination first."""
    found, counts = np.unique(has, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        {"classes": [name for name, present in zip(names, found[i], strict=True) if present], "images": int(counts[i])}
        for i in order.tolist()
    ]


def _folds(names: Sequence[str], fold: np.ndarray, has: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for number in np.unique(fold).tolist():
        inside = has[fold == number]
        positives = {name: int(inside[:, k].sum()) for k, name in enumerate(names)}
        clean = int((~inside.any(axis=1)).sum())
        shares = {name: positives[name] / len(inside) for name in names}
        rows.append({"fold": number, "images": len(inside), "clean": clean, "classes": positives, "shares": shares})
    return rows


def _duplicates(group: np.ndarray) -> dict[str, Any]:
    _, counts = np.unique(group, return_counts=True)
    several = np.sort(counts[counts > 1])[::-1]
    return {
        "groups": len(counts),
        "groups_of_several": len(several),
        "images_in_them": int(several.sum()),
        "largest": several[:10].tolist(),
    }


def pixel_figures(data: ExploredData, survey: PixelSurvey) -> dict[str, Any]:
    """The survey in plain JSON values: gray levels, black share and regions, for each class and for clean images."""
    has = data.has[survey.rows]
    clean = beside_classes("clean", data.class_names)
    groups = {clean: ~has.any(axis=1), **{name: has[:, k] for k, name in enumerate(data.class_names)}}
    figures: dict[str, Any] = {"images": len(survey.rows), "groups": {}}
    for name, chosen in groups.items():
        if chosen.any():
            figures["groups"][name] = {
                "images": int(chosen.sum()),
                "mean": float(survey.mean[chosen].mean()),
                "std": float(survey.std[chosen].mean()),
                "black_share": float(survey.black[chosen].mean()),
                "partly_black": float((survey.black[chosen] > 0.02).mean()),
            }
    figures["regions"] = {
        name: np.bincount(np.minimum(survey.regions[has[:, k], k], MOST_REGIONS), minlength=2)[1:].tolist()
        for k, name in enumerate(data.class_names)
    }
    return figures


def choose_examples(areas: np.ndarray, class_id: int | None, count: int) -> list[int]:
    """Rows that show the range of a class (None: clean images): masks from small to large, evenly over the ranks."""
    if class_id is None:
        rows = np.flatnonzero(~(areas > 0).any(axis=1))
    else:
        rows = np.flatnonzero(areas[:, class_id - 1])
        rows = rows[np.argsort(areas[rows, class_id - 1], kind="stable")]
    return spread_over(rows, count)


def spread_over(rows: np.ndarray, count: int) -> list[int]:
    """`count` of (n,) rows, evenly over their order."""
    picks = ((np.arange(count) + 0.5) * len(rows) / count).astype(int) if len(rows) > count else np.arange(len(rows))
    return rows[picks].tolist()


def image_table(data: ExploredData, survey: PixelSurvey) -> list[dict[str, Any]]:
    """A line for every image: size, fold, group, classes with their areas, and what was measured where it was read."""
    place = {row: i for i, row in enumerate(survey.rows.tolist())}
    lines = []
    for row, image_id in enumerate(data.image_ids):
        height, width = data.sizes[row].tolist()
        i = place.get(row)
        line: dict[str, Any] = {
            "image_id": image_id,
            "height": height,
            "width": width,
            "fold": "" if data.fold is None else int(data.fold[row]),
            "group": int(data.group[row]),
            "classes": " + ".join(n for n, there in zip(data.class_names, data.has[row], strict=True) if there),
            "mean_gray": "" if i is None else round(float(survey.mean[i]), 2),
            "deviation": "" if i is None else round(float(survey.std[i]), 2),
            "black_share": "" if i is None else round(float(survey.black[i]), 4),
        }
        for k, name in enumerate(data.class_names):
            area = int(data.areas[row, k])
            line[f"pixels {name}"] = area
            line[f"per cent {name}"] = round(100 * area / (height * width), 4)
            line[f"regions {name}"] = "" if i is None else int(survey.regions[i, k])
            line[f"smallest region {name}"] = "" if i is None else int(survey.smallest[i, k])
        lines.append(line)
    return lines
