"""A look at a shard folder before anything is trained on it: one page with pictures, and its figures as JSON.

OUT/index.html      self-contained: pictures are inside the file
OUT/figures.json    all figures of the page
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steel.errors import InputError
from steel.images.bitmask import unpack_masks
from steel.images.pictures import contact_sheet, draw_outlines, encode_picture
from steel.reports.explore_figures import (
    MOST_REGIONS,
    PixelSurvey,
    choose_examples,
    count_figures,
    pixel_figures,
    survey_pixels,
)
from steel.reports.explore_page import Page
from steel.reports.explore_plots import (
    draw_heat,
    plot_areas,
    plot_classes,
    plot_folds,
    plot_gray_levels,
    plot_regions,
)
from steel.shards.reader import ShardReader
from steel.storage import make_folder, write_text

NUM_EXAMPLES = 6
_NUM_GROUPS = 4


def explore(
    shards: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    max_images: int = 2000,
    seed: int = 0,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the page and the figures of a shard folder.

    Args:
        shards: path or URL of the folder.
        out: folder to write to; made when missing. Files of an earlier call are replaced.
        max_images: counts and areas are over all images; gray levels, regions and places over so many random ones.
        seed: of that choice.
        on_image: called with (images read, images to read).

    Returns:
        The content of figures.json.

    Raises:
        InputError: no finished shard folder, a damaged sample, a number of images below 1, or a file where the folder
            should be.
    """
    if max_images < 1:
        raise InputError(f"explore: {max_images} images to read; give at least 1")
    reader = ShardReader(shards)
    make_folder(out)
    rows = np.random.default_rng(seed).permutation(len(reader))[:max_images]
    survey = survey_pixels(reader, np.sort(rows), on_image)
    figures = count_figures(reader.manifest, reader.index)
    figures["pixels"] = pixel_figures(reader.manifest, reader.index, survey)
    page = _build_page(reader, figures, survey, os.fspath(shards))
    write_text(Path(out, "figures.json"), json.dumps(figures, indent=1, allow_nan=False) + "\n")
    write_text(Path(out, "index.html"), page.html())
    return figures


def _build_page(reader: ShardReader, figures: dict[str, Any], survey: PixelSurvey, where: str) -> Page:
    names = reader.manifest.class_names
    has = np.asarray(reader.index.areas)[survey.rows] > 0
    page = Page("What is in the data", where)
    page.facts(_facts(figures))
    page.heading("Classes")
    page.picture(plot_classes(figures), "images of each class")
    page.table(("class", "images", "share", "smallest", "25 %", "median", "75 %", "largest", "mean"), _areas(figures))
    page.note("Areas are pixels of a class's mask in an image that has it, at the image's original size.")
    page.heading("Mask areas")
    page.picture(plot_areas(np.asarray(reader.index.areas), names), "mask areas of each class")
    page.heading("Separate defects in an image")
    page.picture(plot_regions(figures["pixels"]["regions"]), "regions in an image")
    page.note(f"Of {figures['pixels']['images']:,} images; {MOST_REGIONS} stands for so many regions and more.")
    page.heading("Where defects lie")
    for class_id, name in enumerate(names, start=1):
        if survey.heat[class_id - 1].any():
            page.picture(draw_heat(survey.heat[class_id - 1], class_id), f"places of {name}", caption=name)
    page.heading("Gray levels")
    page.picture(plot_gray_levels(survey, has, names), "gray levels by class")
    page.table(("images", "number", "mean", "deviation", "black", "partly black"), _gray_levels(figures["pixels"]))
    page.note("Mean and deviation leave black pixels out; an image is partly black when more than 2 % of it is.")
    page.heading("Examples")
    for class_id, name in enumerate(names, start=1):
        _add_examples(
            page, reader, choose_examples(reader.index, class_id, NUM_EXAMPLES), f"{name}, from small to large"
        )
    _add_examples(page, reader, choose_examples(reader.index, None, NUM_EXAMPLES), "clean")
    page.heading("Folds")
    page.picture(plot_folds(figures["folds"], names), "classes in each fold")
    page.table(("fold", "images", "clean", *names), _fold_rows(figures["folds"]))
    page.heading("Duplicates")
    page.note(_duplicate_line(figures["duplicates"]))
    for group in _largest_groups(np.asarray(reader.index.group)):
        shown = f", the first {NUM_EXAMPLES}" if len(group) > NUM_EXAMPLES else ""
        _add_examples(page, reader, group[:NUM_EXAMPLES], f"{len(group)} images of one group{shown}")
    return page


def _facts(figures: dict[str, Any]) -> list[tuple[str, str]]:
    sizes = ", ".join(f"{size['height']}x{size['width']} ({size['images']})" for size in figures["sizes"][:3])
    more = figures["num_sizes"] - len(figures["sizes"][:3])
    defective = figures["images"] - figures["clean"]
    return [
        ("images", f"{figures['images']:,}"),
        ("defective", f"{defective:,} ({defective / max(1, figures['images']):.1%})"),
        ("clean", f"{figures['clean']:,}"),
        ("sizes", sizes + (f" and {more} more" if more > 0 else "") + (", resized" if figures["resized"] else "")),
        ("channels", "gray" if figures["channels"] == 1 else "colour"),
        (
            "mean, deviation",
            ", ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(figures["mean"], figures["std"], strict=True)),
        ),
        ("pixels read of", f"{figures['pixels']['images']:,} images"),
    ]


def _areas(figures: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, values in figures["classes"].items():
        area = values.get("area", {})
        keys = ("smallest", "lower_quartile", "median", "upper_quartile", "largest", "mean")
        cells = [f"{area[key]:,.0f}" if key in area else "" for key in keys]
        rows.append([name, f"{values['images']:,}", f"{values['share']:.1%}", *cells])
    return rows


def _gray_levels(pixels: dict[str, Any]) -> list[list[str]]:
    return [
        [
            name, f"{values['images']:,}", f"{values['mean']:.1f}", f"{values['std']:.1f}",
            f"{values['black_share']:.1%}", f"{values['partly_black']:.1%}",
        ]
        for name, values in pixels["groups"].items()
    ]  # fmt: skip


def _fold_rows(folds: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [
        [str(f["fold"]), f"{f['images']:,}", f"{f['clean']:,}", *(f"{n:,}" for n in f["classes"].values())]
        for f in folds
    ]


def _duplicate_line(duplicates: dict[str, Any]) -> str:
    if not duplicates["groups_of_several"]:
        return "Every image is a group of its own."
    largest = ", ".join(map(str, duplicates["largest"]))
    return (
        f"{duplicates['groups_of_several']:,} groups of images that are equal or nearly so hold "
        f"{duplicates['images_in_them']:,} images; the largest have {largest}. A group never straddles folds."
    )


def _largest_groups(group: np.ndarray) -> list[list[int]]:
    """The rows of the largest groups of several images."""
    numbers, counts = np.unique(group, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_NUM_GROUPS]
    return [np.flatnonzero(group == numbers[i]).tolist() for i in order.tolist() if counts[i] > 1]


def _add_examples(page: Page, reader: ShardReader, rows: Sequence[int], caption: str) -> None:
    if not rows:
        return
    samples = [reader.read(row) for row in rows]
    num_classes = reader.manifest.num_classes
    pictures = [draw_outlines(sample.image, unpack_masks(sample.bitmask, num_classes)) for sample in samples]
    captions = [f"{reader.index.image_id(row)}  {_areas_line(reader, row)}" for row in rows]
    page.picture(encode_picture(contact_sheet(pictures, captions), ".jpg"), f"examples: {caption}", caption=caption)


def _areas_line(reader: ShardReader, row: int) -> str:
    areas = reader.index.areas[row].tolist()
    found = [f"{name}: {area:,}" for name, area in zip(reader.manifest.class_names, areas, strict=True) if area]
    return ", ".join(found) or "clean"
