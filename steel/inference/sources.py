"""What a predictor takes for images: arrays, files, folders, and anything that yields them."""

import os
from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from steel import storage
from steel.errors import InputError, told_url
from steel.images.listing import list_images

Location = str | os.PathLike[str]


class NamedImage(NamedTuple):
    """An image under the name that its prediction has."""

    image_id: str
    pixels: np.ndarray | Location
    """Or where to read them: a path or URL."""
    is_lent: bool = False
    """Whether whoever gave the array may write the next image into it, as cameras do."""


Source = np.ndarray | Location | Iterable[np.ndarray | Location | NamedImage]
"""A folder, whose images are taken by their relative paths, or one file; an array of one image, (H, W) or (H, W, 3), or
of several, (n, H, W) or (n, H, W, 3); or an iterable of files, folders and arrays, also one that never ends."""


def named_images(source: Source) -> Iterator[NamedImage]:
    """The images of a source, taken only as far as needed; arrays are numbered from 0.

    Raises:
        InputError: something that is no image, or a folder without any.
    """
    numbers = count()
    alone = isinstance(source, np.ndarray | str | os.PathLike) or not _has_items(source)
    for item in [source] if alone else source:  # type: ignore[union-attr]
        if isinstance(item, NamedImage):
            yield item
        elif isinstance(item, str | os.PathLike):
            yield from _at(os.fspath(item))
        elif isinstance(item, np.ndarray):
            for pixels in item if alone and _is_stack(item) else [item]:
                plane = pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels
                yield NamedImage(str(next(numbers)), plane, is_lent=not alone)
        else:
            raise InputError(f"an image must be a numpy array or the path of a file, not {type(item).__name__}")


def _has_items(source: object) -> bool:
    """Whether it can be iterated over, also by its `__getitem__` alone, as a dataset of torch."""
    return isinstance(source, Iterable) or hasattr(source, "__getitem__")


def _is_stack(pixels: np.ndarray) -> bool:
    """Whether an array has several images: up to four numbers in its last dimension are the colours of one."""
    return pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[2] > 4)


def _at(url: str) -> Iterator[NamedImage]:
    """The images at a path or URL."""
    if not url:  # what a variable that is not set makes of a path; pathlib takes it for the current folder
        raise InputError("an image's path is empty; give . for the current folder")
    if storage.is_folder(url):
        yield from (NamedImage(record.image_id, record.url) for record in list_images(url))
    else:
        yield NamedImage(told_url(url), url)
