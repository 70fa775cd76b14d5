"""A look at data before anything is trained on it: one page with pictures, its figures, and a table of all images.

OUT/index.html      self-contained: pictures are inside the file
OUT/figures.json    all figures of the page
OUT/images.csv      a line for every image
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from steel.errors import InputError
from steel.reports.earlier import refuse_others
from steel.reports.explore_data import ExploredData
from steel.reports.explore_figures import count_figures, image_table, pixel_figures, survey_pixels
from steel.reports.explore_findings import find_conspicuous, to_plain
from steel.reports.explore_page import explore_page
from steel.reports.per_image import to_csv
from steel.storage import make_folder, remove, write_text

EXPLORED = ("index.html", "figures.json", "images.csv")
"""The files that are written."""


def explore(
    data: ExploredData,
    out: str | os.PathLike[str],
    *,
    max_images: int = 2000,
    seed: int = 0,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the page, the figures and the table of some data.

    Args:
        data: what is explored.
        out: folder to write to; made when missing. Files of an earlier call are replaced.
        max_images: counts and areas are over all images; gray levels, regions and places over so many random ones.
        seed: of that choice.
        on_image: called with (images read, images to read).

    Returns:
        The content of figures.json.

    Raises:
        InputError: a damaged image, a number of images below 1, no image at all, a file where the folder should be, or
            files of these names in it that no earlier call has written.
    """
    if max_images < 1:
        raise InputError(f"explore: {max_images} images to read; give at least 1")
    if len(data) == 0:
        raise InputError(f"{data.where}: there are no images")
    make_folder(out)
    refuse_others([Path(out, name) for name in EXPLORED], Path(out, "figures.json"), {"findings", "pixels"})
    rows = np.random.default_rng(seed).permutation(len(data))[:max_images]
    survey = survey_pixels(data, np.sort(rows), on_image)
    findings = find_conspicuous(data, survey)
    figures = {
        "findings": to_plain(data, findings),
        **count_figures(data),
        "pixels": pixel_figures(data, survey),
    }
    lines = image_table(data, survey)
    # The page first: an earlier one must never stand beside other figures. They last: these files are known by them.
    for name in ("index.html", "images.csv", "figures.json"):
        remove(Path(out, name))
    write_text(Path(out, "figures.json"), json.dumps(figures, indent=1, allow_nan=False) + "\n")
    write_text(Path(out, "images.csv"), to_csv(lines, list(lines[0])))
    write_text(Path(out, "index.html"), explore_page(data, figures, survey, findings))
    return figures
