"""The images of a folder."""

import os
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from steel import storage
from steel.errors import InputError
from steel.images.decode import decode_image
from steel.images.pixel_format import Depth

LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
IMAGE_SUFFIXES = LOSSY_SUFFIXES[:2] + LOSSLESS_SUFFIXES + LOSSY_SUFFIXES[2:]
"""In the order in which they are taken for the image among several files of one sample: photographs first."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a folder."""

    image_id: str
    """Path relative to the folder, with forward slashes and extension."""
    url: str
    """Where to read it: a path or fsspec URL."""


def list_images(folder: str, *, without: str | None = None) -> tuple[ImageRecord, ...]:
    """All images in and below a folder (a path or URL), sorted by their relative path.

    Args:
        folder: Where to look. Hidden files and folders are left out.
        without: A folder that is left out with all in it: masks that lie among the images.

    Raises:
        InputError: no such folder, or no image in it.
    """
    inner = "" if without is None else _inside(folder, without)
    names = [file.path for file in storage.list_files(folder, IMAGE_SUFFIXES)]
    records = tuple(ImageRecord(n, storage.join(folder, n)) for n in names if not (inner and n.startswith(inner)))
    if not records:
        raise InputError(f"{folder}: no images there (looked for {', '.join(IMAGE_SUFFIXES)})")
    return records


def read_image(url: str | os.PathLike[str], channels: int, depth: Depth) -> np.ndarray:
    """Pixels of the image at a path or URL, as `decode_image` gives them.

    Raises:
        InputError: no such file, or not an image that can be read.
    """
    try:
        return decode_image(storage.read_bytes(url), channels, depth)
    except FileNotFoundError:
        raise InputError(f"{os.fspath(url)}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(url)}: {error}") from error


def image_stem(image_id: str) -> str:
    """The relative path without its extension: what an image and its mask have in common."""
    return str(PurePosixPath(image_id).with_suffix(""))


def lies_in(url: str, folder: str) -> bool:
    """Whether a path or URL is a folder or lies below it."""
    return storage.full_path(url).startswith(storage.full_path(folder))


def _inside(folder: str, other: str) -> str:
    """`other` relative to `folder`, with a slash at its end; "" when it does not lie below."""
    return storage.full_path(other).removeprefix(storage.full_path(folder)) if lies_in(other, folder) else ""
