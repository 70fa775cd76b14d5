"""What a shard folder holds, in numbers: from the index for all images, from the pixels of a part of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from steel.images.strip import is_black
from steel.shards.format import Manifest
from steel.shards.index import Index
from steel.shards.reader import ShardReader

NUM_SIZES = 8
"""The most frequent sizes that are listed; all are counted."""
MOST_REGIONS = 20
"""An image's regions are counted up to here, and more than that as so many."""
_HEAT_HEIGHT = 48


@dataclass(frozen=True)
class PixelSurvey:
    """What was measured on the pixels of `n` images.

    Attributes:
        rows: (n,) int, their rows.
        mean: (n,) float, mean gray level of the strip (black pixels left out), 0 to 255; 0 when all is black.
        std: (n,) float, its standard deviation.
        black: (n,) float, share of black pixels.
        regions: (n, C) int, separate regions of each class, in masks of the original size.
        heat: (C, h, w) float, share of these images' masks of each class that cover a place; 0 without any.
    """

    rows: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    black: np.ndarray
    regions: np.ndarray
    heat: np.ndarray


def survey_pixels(
    reader: ShardReader, rows: np.ndarray, on_image: Callable[[int, int], None] | None = None
) -> PixelSurvey:
    """Read the images of `rows` and measure them; `on_image` hears (done, all) after each.

    Raises:
        BadSampleError: a sample is damaged.
    """
    num_classes = reader.manifest.num_classes
    aspect = float(np.median(reader.index.width[rows] / reader.index.height[rows]))
    heat = np.zeros((num_classes, _HEAT_HEIGHT, max(1, round(_HEAT_HEIGHT * aspect))), np.float64)
    with_class = np.zeros(num_classes)
    levels = np.zeros((len(rows), 3))
    regions = np.zeros((len(rows), num_classes), int)
    for number, row in enumerate(rows.tolist()):
        sample = reader.read(row, original_mask=True)
        levels[number] = _levels(sample.image)
        for k in np.flatnonzero(reader.index.areas[row]):
            mask = (sample.bitmask >> k & 1).astype(np.uint8)
            regions[number, k] = cv2.connectedComponents(mask)[0] - 1
            heat[k] += cv2.resize(mask.astype(np.float32), heat.shape[:0:-1], interpolation=cv2.INTER_AREA)
            with_class[k] += 1
        if on_image is not None:
            on_image(number + 1, len(rows))
    heat /= np.maximum(with_class, 1)[:, None, None]
    return PixelSurvey(rows, levels[:, 0], levels[:, 1], levels[:, 2], regions, heat)


def _levels(image: np.ndarray) -> tuple[float, float, float]:
    """Mean and deviation of the pixels that are not black, and the share of those that are."""
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    strip = ~is_black(gray)
    if not strip.any():
        return 0.0, 0.0, 1.0
    mean, std = cv2.meanStdDev(gray, mask=strip.astype(np.uint8))
    return float(mean[0, 0]), float(std[0, 0]), 1 - float(strip.mean())


def count_figures(manifest: Manifest, index: Index) -> dict[str, Any]:
    """Everything that the index alone tells, over all images, in plain JSON values."""
    has = np.asarray(index.areas) > 0
    sizes = Counter(zip(np.asarray(index.height).tolist(), np.asarray(index.width).tolist(), strict=True))
    return {
        "images": len(index),
        "clean": int((~has.any(axis=1)).sum()),
        "channels": manifest.channels,
        "mean": list(manifest.mean),
        "std": list(manifest.std),
        "digest": manifest.digest,
        "num_sizes": len(sizes),
        "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in sizes.most_common(NUM_SIZES)],
        "resized": bool(np.any(index.height != index.original_height) or np.any(index.width != index.original_width)),
        "classes": {
            name: _class_figures(index, has[:, k], np.asarray(index.areas)[:, k])
            for k, name in enumerate(manifest.class_names)
        },
        "combinations": _combinations(manifest.class_names, has),
        "folds": _folds(manifest.class_names, np.asarray(index.fold), has),
        "duplicates": _duplicates(np.asarray(index.group)),
    }


def _class_figures(index: Index, has: np.ndarray, areas: np.ndarray) -> dict[str, Any]:
    present = areas[has].astype(float)
    figures: dict[str, Any] = {"images": int(has.sum()), "share": float(has.mean()) if len(has) else 0.0}
    if len(present):
        smallest, lower, median, upper, largest = np.quantile(present, (0, 0.25, 0.5, 0.75, 1)).tolist()
        pixels = np.asarray(index.original_height, float)[has] * np.asarray(index.original_width, float)[has]
        figures["area"] = {
            "smallest": smallest, "lower_quartile": lower, "median": median, "upper_quartile": upper,
            "largest": largest, "mean": float(present.mean()), "std": float(present.std()),
        }  # fmt: skip
        figures["share_of_image"] = float((present / pixels).mean())
    return figures


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
        rows.append({"fold": number, "images": len(inside), "clean": clean, "classes": positives})
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


def pixel_figures(manifest: Manifest, index: Index, survey: PixelSurvey) -> dict[str, Any]:
    """The survey in plain JSON values: gray levels, black share and regions, for each class and for clean images."""
    has = np.asarray(index.areas)[survey.rows] > 0
    groups = {"clean": ~has.any(axis=1), **{name: has[:, k] for k, name in enumerate(manifest.class_names)}}
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
        for k, name in enumerate(manifest.class_names)
    }
    return figures


def choose_examples(index: Index, class_id: int | None, count: int) -> list[int]:
    """Rows that show the range of a class (None: clean images): masks from small to large, evenly over the ranks."""
    areas = np.asarray(index.areas)
    if class_id is None:
        rows = np.flatnonzero(~(areas > 0).any(axis=1))
    else:
        rows = np.flatnonzero(areas[:, class_id - 1])
        rows = rows[np.argsort(areas[rows, class_id - 1], kind="stable")]
    picks = ((np.arange(count) + 0.5) * len(rows) / count).astype(int) if len(rows) > count else np.arange(len(rows))
    return rows[picks].tolist()
