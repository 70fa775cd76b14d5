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
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 254, 256, 257, 258, 259, 262, 274
_PLANAR, _EXTRA = 284, 338
PLACES = ((273, 279), (324, 325))
"""Offsets and lengths, of strips and of tiles."""
_DEFLATE = (8, 32946)
_PALETTE = 3
_STRAIGHT_ALPHA = 2
_PLANES = 2
_REDUCED_OR_MASK = 1 | 4
"""Of a directory's kind: a smaller copy of another page, or what is transparent in it."""
_MAX_DIRECTORIES = 65536

_Tags = dict[int, tuple[int, ...]]


class TiffHeader(NamedTuple):
    """What the tags of the first image say."""

    width: int
    height: int
    depth: int
    """Bits a value."""
    is_palette: bool
    has_straight_alpha: bool
    """Whether there is an alpha that the colours are not multiplied with."""


def check_tiff(data: bytes) -> TiffHeader:
    """See whether the first image of a TIFF or BigTIFF is all there.

    Raises:
        ValueError: cut short, damaged, too large, of several pages, of a compression that Pillow does not know, of
            values in planes that decoders misread, or to be turned by a tag: decoders do so in some cases and not in
            others, and masks are not turned with it.
    """
    try:
        tags, _ = read_tags(data, _first_directory(data))
        pages = len(page_directories(data))
    except struct.error as error:
        raise ValueError("damaged TIFF: cut short") from error
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("damaged TIFF: it does not say how large it is")
    if pages > 1:
        raise ValueError(
            f"a TIFF of {pages} pages; save each page as a file of its own, or have each taken "
            "for an image by --tiff-pages split (data_prep, steel predict)"
        )
    check_size(tags[_WIDTH][0], tags[_HEIGHT][0])
    offsets, lengths = next(((tags[o], tags[n]) for o, n in PLACES if o in tags and n in tags), ((), ()))
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
    alpha, depth = tags.get(_EXTRA, ()), tags.get(_BITS, (1,))[0]
    if (alpha or depth > 8) and tags.get(_PLANAR, (1,))[0] == _PLANES:
        raise ValueError("a TIFF of planes with alpha or more than 8 bits; save it with a pixel's values together")
    return TiffHeader(tags[_WIDTH][0], tags[_HEIGHT][0], depth, is_palette, alpha[:1] == (_STRAIGHT_ALPHA,))


def orientation_of(data: bytes) -> int:
    """What the first directory says of how the image is to be turned; 1 where it says nothing.

    Raises:
        struct.error: cut short.
    """
    return int(read_tags(data, _first_directory(data))[0].get(_ORIENTATION, (1,))[0])


class Layout(NamedTuple):
    """How numbers are written in a file."""

    order: str
    """Of bytes, as `struct` has it."""
    word: str
    """An offset."""
    tags: str
    """The number of tags in a directory."""


def layout_of(data: bytes | memoryview) -> Layout:
    """How numbers are written in a TIFF."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    return Layout(order, "Q", "Q") if is_big else Layout(order, "I", "H")


def _first_directory(data: bytes | memoryview) -> int:
    """Where the first page is described."""
    order, word, _ = layout_of(data)
    return int(struct.unpack_from(f"{order}{word}", data, 8 if word == "Q" else 4)[0])


def page_directories(data: bytes | memoryview) -> list[int]:
    """Where each page is described; smaller copies and masks of transparency after the first are none.

    Raises:
        ValueError: the directories go round in a circle.
        struct.error: one lies beyond the end of the file.
    """
    pages, seen, directory = list[int](), set[int](), _first_directory(data)
    while directory:
        if directory in seen or len(seen) == _MAX_DIRECTORIES:
            raise ValueError("damaged TIFF: its pages have no end")
        seen.add(directory)
        tags, following = read_tags(data, directory)
        if not pages or not tags.get(_SUBFILE, (0,))[0] & _REDUCED_OR_MASK:
            pages.append(directory)
        directory = following
    return pages


def read_tags(data: bytes | memoryview, directory: int) -> tuple[_Tags, int]:
    """A directory's tags of whole numbers, and where the next directory is, 0 after the last.

    Raises:
        struct.error: one lies beyond the end of the file.
    """
    order, word, count_form = layout_of(data)
    room = struct.calcsize(f"{order}{word}")
    (num_tags,) = struct.unpack_from(f"{order}{count_form}", data, directory)
    at = directory + struct.calcsize(f"{order}{count_form}")
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
    return tags, int(struct.unpack_from(f"{order}{word}", data, at)[0])


def _inflate(data: bytes, offsets: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    """Decompress every strip for the checksum at its end, which libtiff does not look at."""
    try:
        for offset, length in zip(offsets, lengths, strict=True):
            zlib.decompress(data[offset : offset + length])
    except zlib.error as error:
        raise ValueError(f"damaged TIFF: {error}") from error
