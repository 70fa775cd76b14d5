"""Labels written as mask images."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from steel.errors import InputError
from steel.images.listing import image_stem
from steel.images.png import encode_png
from steel.labels.labels import LabelledImage

INSIDE = 255
IGNORED = 128
"""The values of written masks; 0 is outside. Read with `--ignore-value 128` where there are any."""


def write_mask_folder(out: str, class_names: tuple[str, ...], images: Iterable[LabelledImage]) -> None:
    """Write `<class name>/<path of the image>.png`, for every class and image, so that nothing is taken for missing.

    Args:
        out: Local folder, which exists.
        class_names: Of the folders.
        images: With their masks; ignored pixels are written into the files of every class.
    """
    check_folder_names(class_names)
    for image in images:
        ignored = image.planes.get(0)
        for class_id, name in enumerate(class_names, 1):
            plane = image.planes.get(class_id, np.zeros((image.height, image.width), np.uint8)) * np.uint8(INSIDE)
            if ignored is not None:
                plane[ignored != 0] = IGNORED
            path = Path(out, name, f"{image_stem(image.image_id)}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(plane))


def check_folder_names(class_names: Sequence[str]) -> None:
    """Raises InputError unless every class can have a folder of its name."""
    for name in class_names:
        if "/" in name or "\\" in name or name.startswith("."):
            raise InputError(f"class {name!r}: no name for a folder; give another (--class-names)")
