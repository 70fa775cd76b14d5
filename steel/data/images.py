"""The images of a folder: which there are, and what their headers say."""

import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from steel.data import storage
from steel.data.problems import Problem, ProblemsError
from steel.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_HEAD_BYTES = 65536
_GRAY_MODES = ("1", "L", "LA", "La", "I", "F")


@dataclass(frozen=True)
class ImageRecord:
    """One image of a folder."""

    image_id: str
    """Path relative to the folder, with forward slashes and extension."""
    url: str
    """Where to read it: a path or fsspec URL."""


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image file says. EXIF rotation is ignored on purpose, as everywhere."""

    height: int
    """In pixels, as stored."""
    width: int
    channels: int
    """1 when stored gray, else 3; a file with three channels may still hold a gray image."""
    bit_depth: int
    """Bits a channel, 1 to 32."""


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


def probe_image(source: bytes | str, name: str | None = None) -> ImageInfo:
    """Read the header of an image file, not its pixels.

    Args:
        source: The file's bytes, or where it is (a path or URL). Of a remote file only the beginning is fetched.
        name: What to call it in an error; the location when None.

    Raises:
        ProblemsError: not an image that can be read. A file that ends too early shows only when it is decoded.
    """
    where = name or (source if isinstance(source, str) else "image")
    try:
        if isinstance(source, bytes):
            return _read_header(source)
        try:
            return _read_header(storage.read_range(source, 0, _HEAD_BYTES))
        except (OSError, ValueError):
            return _read_header(storage.read_bytes(source))  # long metadata stand before the size
    except UnidentifiedImageError:
        reason = "not an image"
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error)
    raise ProblemsError([Problem("unreadable images", f"{where} ({reason})")])


def _read_header(data: bytes) -> ImageInfo:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        gray = image.mode in _GRAY_MODES or image.mode.startswith("I;")
        return ImageInfo(height, width, 1 if gray else 3, _bit_depth(image, data))


def _bit_depth(image: Any, data: bytes) -> int:
    """Bits a channel in the file. Pillow shows 16-bit colour as if it had 8, so the format is asked itself."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return int(image.tag_v2.get(258, (1,))[0])
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;") else 8)


def _inside(folder: str, other: str) -> str:
    """`other` relative to `folder`, with a slash at its end; "" when it does not lie below."""
    if not storage.is_remote(folder) and not storage.is_remote(other):
        folder, other = (storage.local_path(f).resolve().as_posix() for f in (folder, other))
    top = folder.rstrip("/") + "/"
    return other.rstrip("/").removeprefix(top) + "/" if other.startswith(top) else ""
