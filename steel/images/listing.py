"""The images of a folder."""

import errno
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from steel import storage
from steel.errors import InputError, ResourceError, counted, is_out_of_memory, list_some, told_url
from steel.images.decode import decode_image, is_tiff
from steel.images.pixel_format import Depth
from steel.images.tiff_pages import count_pages, page_of
from steel.validation_errors import Issue, raise_issues

logger = logging.getLogger(__name__)

TiffPages = Literal["refuse", "split"]
"""What a TIFF of several pages is: a mistake, or an image per page."""
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif")
LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
LOSSY_SUFFIXES = (*JPEG_SUFFIXES, ".webp")
IMAGE_SUFFIXES = JPEG_SUFFIXES + LOSSLESS_SUFFIXES + (".webp",)
"""In the order in which they are taken for the image among several files of one sample: photographs first."""
UNREAD_SUFFIXES = tuple(
    f".{name}"
    for name in (
        *("gif", "jp2", "j2k", "jpf", "jpx", "jxl", "jxr", "jpe", "jif", "heic", "heif", "avif", "psd", "tga", "dib"),
        *("pbm", "pgm", "ppm", "pnm", "pfm", "exr", "hdr", "dcm", "raw", "dng", "cr2", "cr3", "nef", "arw", "orf"),
    )
)
"""Images, too, that are not read: left out with a warning. All else beside images is nobody's business."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a folder."""

    image_id: str
    """Path relative to the folder, with forward slashes and extension."""
    url: str
    """Where to read it: a path or fsspec URL."""
    page: int | None = None
    """Of a TIFF that has several, from 1; None for a file that is one image."""
    version: str = ""
    """Of its file: see `steel.storage.FileInfo`."""
    size: int = 0
    """Of its file, or of a page's share of it, in bytes; 0 where its store does not tell."""

    def read(self) -> bytes:
        """The image's file; of a page of a TIFF, a TIFF of that page alone.

        Raises:
            OSError: it cannot be read.
            ValueError: a TIFF that is damaged, or not the one that was listed.
        """
        if self.page is None:
            return storage.read_bytes(self.url)
        with storage.mapped(self.url) as data:
            return page_of(data, self.page)


def list_images(folder: str, *, tiff_pages: TiffPages = "refuse") -> tuple[ImageRecord, ...]:
    """All images in and below a folder (a path or URL), sorted by their relative path.

    Files of image formats that are not read are left out, with a warning in the log that names them.

    Args:
        folder: Where to look. Hidden files and folders are left out.
        tiff_pages: See `split_pages`.

    Raises:
        InputError: no such folder, or no image in it.
        ValidationErrors, ResourceError: see `split_pages`.
    """
    files = storage.list_files(folder, IMAGE_SUFFIXES + UNREAD_SUFFIXES)
    unread = [file.path for file in files if not file.path.lower().endswith(IMAGE_SUFFIXES)]
    left_out = set(unread)
    records = tuple(
        ImageRecord(file.path, storage.join(folder, file.path), version=file.version, size=file.size or 0)
        for file in files
        if file.path not in left_out
    )
    if not records:
        others = f"; {list_some(unread)} cannot be read" if unread else ""
        raise InputError(f"{folder}: no images there (looked for {', '.join(IMAGE_SUFFIXES)}{others})")
    if unread:
        logger.warning(
            "warning: %s: left out %s of image formats that are not read: %s; save them as PNG",
            told_url(folder),
            counted(len(unread), "file"),
            list_some(unread),
        )
    return records if tiff_pages == "refuse" else split_pages(records)


def split_pages(records: Sequence[ImageRecord]) -> tuple[ImageRecord, ...]:
    """Images with each page of a TIFF that has several as one: `NAME_p1.tif`, `NAME_p2.tif`, ... for `NAME.tif`.

    A TIFF that cannot be looked at stays as it is, for whoever reads it to say so.

    Raises:
        ValidationErrors: pages that are called as another image.
        ResourceError: a disk or store is at fault, see `why_unreadable`: the pages would not be known of.
    """
    split = tuple(page for record in records for page in _pages_of(record))
    times = Counter(record.image_id for record in split)
    raise_issues(Issue("pages that are called as another image", name) for name, n in times.items() if n > 1)
    return split


def _pages_of(record: ImageRecord) -> Iterator[ImageRecord]:
    stem, dot, suffix = record.image_id.rpartition(".")
    pages = 1
    if suffix.lower() in ("tif", "tiff"):
        try:
            with storage.mapped(record.url) as data:
                pages = count_pages(data) if is_tiff(data) else 1
        except (OSError, ValueError) as error:
            why_unreadable(record, error)  # for what it raises: of the image, whoever reads it says the same
    if pages == 1:
        yield record
        return
    for number in range(1, pages + 1):
        yield ImageRecord(f"{stem}_p{number}{dot}{suffix}", record.url, number, record.version, record.size // pages)


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


def why_unreadable(record: ImageRecord, error: OSError | ValueError) -> str:
    """What there is to say of an image that is left out because it could not be read or decoded.

    Raises:
        ResourceError: that is no fault of this image but of a disk, a store or the machine: others, which are whole,
            would be left out with it. In a store that goes for rights, too, as they run out for all images at once, and
            on a disk for a file that is gone with all of its folder, as where the disk is no longer mounted.
        OSError: `error` itself, where it says that memory has run out.
    """
    if not isinstance(error, OSError):
        return str(error)
    rights = () if storage.is_remote(record.url) else (PermissionError,)
    is_unmounted = isinstance(error, FileNotFoundError) and _is_folder_gone(record.url)
    if isinstance(error, (FileNotFoundError, IsADirectoryError, *rights)) and not is_unmounted:
        number = errno.EISDIR if isinstance(error, IsADirectoryError) else errno.ENOENT
        return error.strerror or os.strerror(number)  # stores' libraries say the place alone
    if is_out_of_memory(error):
        raise error
    raise ResourceError(
        f"{told_url(record.url)}: cannot be read now "
        f"({'its folder is gone, or empty' if is_unmounted else error.strerror or error}); see to that, then give the "
        "same command again"
    ) from error


def _is_folder_gone(url: str) -> bool:
    """Whether there is nothing at all where a local file was, which a store does not tell."""
    if storage.is_remote(url):
        return False
    try:
        with os.scandir(storage.local_path(url).parent) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def image_stem(image_id: str) -> str:
    """The relative path without its extension: what an image and its mask have in common."""
    return str(PurePosixPath(image_id).with_suffix(""))


def lies_in(url: str, folder: str) -> bool:
    """Whether a path or URL is a folder or lies below it."""
    return storage.full_path(url).startswith(storage.full_path(folder))
