"""TIFF files: what the first directory says, and whether all that it points to is there.

OpenCV and Pillow both go on after a strip that does not decode, in different cases; what they return then looks like
an image. Compressed strips are therefore tried here, before anyone decodes them.
"""

import struct
import zlib
from typing import NamedTuple

from steel.images.pillow_reader import read_by_pillow
from steel.images.pixel_format import check_size

_FORMS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""Types of the tags that are looked at."""
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_PLACES = ((273, 279), (324, 325))
"""Offsets and lengths, of strips and of tiles."""
_DEFLATE = (8, 32946)
_PALETTE = 3

_Tags = dict[int, tuple[int, ...]]


class TiffHeader(NamedTuple):
    """What the tags of the first image say."""

    width: int
    height: int
    depth: int
    """Bits a value."""
    is_palette: bool


def check_tiff(data: bytes) -> TiffHeader:
    """See whether the first image of a TIFF or BigTIFF is all there.

    Raises:
        ValueError: cut short, damaged, too large, of a compression that Pillow does not know, or to be turned by a tag:
            decoders do so in some cases and not in others, and masks are not turned with it.
    """
    try:
        tags = _read_tags(data)
    except struct.error as error:
        raise ValueError("damaged TIFF: cut short") from error
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("damaged TIFF: it does not say how large it is")
    check_size(tags[_WIDTH][0], tags[_HEIGHT][0])
    offsets, lengths = next(((tags[o], tags[n]) for o, n in _PLACES if o in tags and n in tags), ((), ()))
    if not offsets or len(offsets) != len(lengths):
        raise ValueError("damaged TIFF: it does not say where its pixels are")
    if any(offset + length > len(data) for offset, length in zip(offsets, lengths, strict=True)):
        raise ValueError("damaged TIFF: cut short")
    if tags.get(_ORIENTATION, (1,))[0] > 1:
        raise ValueError("a TIFF that is turned by a tag; turn its pixels and save it without orientation")
    compression = tags.get(_COMPRESSION, (1,))[0]
    if compression in _DEFLATE:
        _inflate(data, offsets, lengths)
    elif compression != 1:
        read_by_pillow(data, "TIFF")  # of the two it is the one that refuses strips of the wrong length
    is_palette = tags.get(_PHOTOMETRIC, (1,))[0] == _PALETTE
    return TiffHeader(tags[_WIDTH][0], tags[_HEIGHT][0], tags.get(_BITS, (1,))[0], is_palette)


def _read_tags(data: bytes) -> _Tags:
    """The first directory's tags of whole numbers; raises struct.error where one lies beyond the end of the file."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    word, count_form, at = ("Q", "Q", 8) if is_big else ("I", "H", 4)
    room = struct.calcsize(f"{order}{word}")
    (start,) = struct.unpack_from(f"{order}{word}", data, at)
    (num_tags,) = struct.unpack_from(f"{order}{count_form}", data, start)
    at = start + struct.calcsize(f"{order}{count_form}")
    tags: _Tags = {}
    for _ in range(num_tags):
        tag, kind, count = struct.unpack_from(f"{order}HH{word}", data, at)
        at += 4 + room
        if kind in _FORMS and count:
            form = f"{order}{count}{_FORMS[kind]}"
            is_here = struct.calcsize(form) <= room
            place = at if is_here else struct.unpack_from(f"{order}{word}", data, at)[0]
            tags[tag] = struct.unpack_from(form, data, place)
        at += room
    struct.unpack_from(f"{order}{word}", data, at)  # where the next directory is: the end of this one
    return tags


def _inflate(data: bytes, offsets: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    """Decompress every strip for the checksum at its end, which libtiff does not look at."""
    try:
        for offset, length in zip(offsets, lengths, strict=True):
            zlib.decompress(data[offset : offset + length])
    except zlib.error as error:
        raise ValueError(f"damaged TIFF: {error}") from error
