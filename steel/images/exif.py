"""The orientation that EXIF asks viewers for. Pixels are taken as they are stored: it is looked at to be told."""

import struct
from collections.abc import Sequence

from steel.errors import counted
from steel.images.png import SIGNATURE
from steel.images.tiff import orientation_of as orientation_of_tiff

_JPEG, _JPEG_EXIF = b"\xff\xd8", b"Exif\0\0"
_APP1, _SCAN = 0xE1, 0xDA
_RIFF = 12
"""Where a WebP file's first chunk is."""
UPRIGHT = 1
QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations in which a viewer shows height and width exchanged."""
HOW_TO_TURN = "exiftran -ai for JPEG, mogrify -auto-orient"
"""What turns the pixels of files and sets their orientation to 1."""
TURNED_ADVICE = (
    "pixels are taken as stored, and labels must be of these, not of what a viewer turns; "
    f"to turn the files themselves: {HOW_TO_TURN}"
)
"""Of images with labels that viewers turn."""
TURNED_PREDICTED = (
    "what was predicted is of the pixels as stored, not of what a viewer turns; where the training images were turned "
    f"themselves, turn these too: {HOW_TO_TURN}"
)
"""Of predicted images that viewers turn."""


def told_turned(image_ids: Sequence[str]) -> str:
    """That these images are turned by viewers."""
    return f"{counted(len(image_ids), 'image')} with an EXIF orientation other than 1"


def exif_orientation(data: bytes) -> int:
    """From 1, as stored, to 8, by the EXIF of a JPEG, PNG or WebP file; 1 where there is none, or it is damaged.

    What is before the pixels is looked at, and of PNG and WebP the names and lengths of further chunks. A TIFF that
    says anything but 1 is refused wherever it is read.
    """
    try:
        block = _exif_of(data)
        found = orientation_of_tiff(block) if block is not None else UPRIGHT
    except (struct.error, IndexError, ValueError):
        return UPRIGHT
    return found if 1 <= found <= 8 else UPRIGHT


def _exif_of(data: bytes) -> bytes | None:
    """The block of EXIF, which is laid out as a TIFF."""
    if data[:2] == _JPEG:
        return _of_jpeg(data)
    if data[:8] == SIGNATURE:
        return _of_chunks(data, len(SIGNATURE), ">I4s", b"eXIf", overhead=12)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        block = _of_chunks(data, _RIFF, "<4sI", b"EXIF", overhead=8)
        return block.removeprefix(_JPEG_EXIF) if block is not None else None
    return None


def _of_jpeg(data: bytes) -> bytes | None:
    at = 2
    while True:
        mark, marker, length = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or marker == _SCAN:
            return None
        if marker == _APP1 and data.startswith(_JPEG_EXIF, at + 4):
            return data[at + 4 + len(_JPEG_EXIF) : at + 2 + length]
        at += 2 + length


def _of_chunks(data: bytes, at: int, form: str, wanted: bytes, *, overhead: int) -> bytes | None:
    """The contents of the chunk of this name, of a file that is chunks from `at` on; each with `overhead` bytes beside
    its contents, and padded to an even length where names come first."""
    while at + 8 <= len(data):
        fields = struct.unpack_from(form, data, at)
        name, length = fields if isinstance(fields[0], bytes) else fields[::-1]
        if name == wanted:
            return data[at + 8 : at + 8 + length]
        at += overhead + length + (length % 2 if overhead == 8 else 0)
    return None
