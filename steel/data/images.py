"""The images of a folder."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from steel.data import storage
from steel.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


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


def image_stem(image_id: str) -> str:
    """The relative path without its extension: what an image and its mask have in common."""
    return str(PurePosixPath(image_id).with_suffix(""))


def _inside(folder: str, other: str) -> str:
    """`other` relative to `folder`, with a slash at its end; "" when it does not lie below."""
    if not storage.is_remote(folder) and not storage.is_remote(other):
        folder, other = (storage.local_path(f).resolve().as_posix() for f in (folder, other))
    top = folder.rstrip("/") + "/"
    return other.rstrip("/").removeprefix(top) + "/" if other.startswith(top) else ""
