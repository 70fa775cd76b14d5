"""TIFF files: what the first directory says, and whether all that it points to is there.

OpenCV and Pillow both go on after a strip that does not decode, in different cases; what they return then looks like
an image. Compressed strips are therefore tried here, before anyone decodes them.

Any file is looked at in little more memory than its own size, whatever it says of itself: of most tags the first value
is kept, and what comes out of a compressed strip is not.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from steel.images.pillow_reader import read_by_pillow
from steel.images.pixel_format import MAX_PIXELS, check_size

_FORMS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""Types of the tags that are looked at."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}
"""Bytes of a value, by the type of its tag."""
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 254, 256, 257, 258, 259, 262, 274
_SAMPLES, _ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA = 277, 278, 284, 322, 323, 338
_PLACES = ((273, 279), (324, 325))
"""Offsets and lengths, of strips and of tiles."""
_DEFLATE = (8, 32946)
_WHITE_IS_ZERO, _PALETTE = 0, 3
_STRAIGHT_ALPHA = 2
_PLANES = 2
_REDUCED_OR_MASK = 1 | 4
"""Of a directory's kind: a smaller copy of another page, or what is transparent in it."""
_MAX_DIRECTORIES = 65536
_MAX_BITS = 6 * 64
"""Of a pixel that anyone decodes."""
_PIECE = 1 << 12
"""Bytes of a strip that are decompressed at a time: 4 MB at most come out of them."""


class TiffHeader(NamedTuple):
    """What the tags of the first image say."""

    width: int
    height: int
    depth: int
    """Bits a value."""
    samples: int
    """Values a pixel."""
    compression: int
    block: tuple[int, int]
    """Width and height of a strip or a tile, for which decoders make room."""
    is_palette: bool
    is_white_zero: bool
    """Whether 0 is shown as white: of 2 to 8 bits, decoders give what is shown instead of what is stored."""
    has_straight_alpha: bool
    """Whether there is an alpha that the colours are not multiplied with."""

    @property
    def pixels(self) -> int:
        """Of the image, or of a tile that is larger."""
        return max(self.width * self.height, math.prod(self.block))


def tiff_header(data: bytes) -> TiffHeader:
    """What a TIFF or BigTIFF says of its first image, before any of its pixels is looked at.

    Raises:
        ValueError: cut short or damaged there, too large, of several pages, of values in planes that decoders misread,
            or to be turned by a tag: decoders do so in some cases and not in others, and masks are not turned with it.
    """
    try:
        tags = _first_values(data, _first_directory(data))
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
    width, height, depth = tags[_WIDTH], tags[_HEIGHT], tags.get(_BITS, 1)
    check_size(width, height)
    if tags.get(_ORIENTATION, 1) > 1:
        raise ValueError("a TIFF that is turned by a tag; turn its pixels and save it without orientation")
    if (_EXTRA in tags or depth > 8) and tags.get(_PLANAR) == _PLANES:
        raise ValueError("a TIFF of planes with alpha or more than 8 bits; save it with a pixel's values together")
    strip = width, min(height, tags.get(_ROWS, height))
    is_tiled = _TILE_WIDTH in tags and _TILE_HEIGHT in tags
    return TiffHeader(
        width=width,
        height=height,
        depth=depth,
        samples=tags.get(_SAMPLES, 1),
        compression=tags.get(_COMPRESSION, 1),
        block=(tags[_TILE_WIDTH], tags[_TILE_HEIGHT]) if is_tiled else strip,
        is_palette=tags.get(_PHOTOMETRIC) == _PALETTE,
        is_white_zero=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        has_straight_alpha=tags.get(_EXTRA) == _STRAIGHT_ALPHA,
    )


def check_tiff(data: bytes) -> TiffHeader:
    """See whether the first image of a TIFF or BigTIFF is all there.

    Raises:
        ValueError: as `tiff_header`; and where its pixels are cut short, damaged, or of a compression that Pillow does
            not know.
    """
    header = tiff_header(data)
    strips = strips_of(data, _first_directory(data))
    if not strips.lie_within(len(data)):
        raise ValueError("damaged TIFF: cut short")
    if header.compression in _DEFLATE:
        _inflate(data, strips, _most_bytes(header))
    elif header.compression != 1:
        read_by_pillow(data, "TIFF")  # of the two it is the one that refuses strips of the wrong length
    return header


def orientation_of(data: bytes) -> int:
    """What the first directory says of how the image is to be turned; 1 where it says nothing.

    Raises:
        struct.error: cut short.
        ValueError: damaged.
    """
    return _first_values(data, _first_directory(data)).get(_ORIENTATION, 1)


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
    is_big = unpack(f"{order}H", data, 2)[0] == 43
    return Layout(order, "Q", "Q") if is_big else Layout(order, "I", "H")


def unpack(form: str, data: bytes | memoryview, offset: int) -> tuple[Any, ...]:
    """As `struct.unpack_from`, which has an error of another kind for offsets that no file has but a damaged one says.

    Raises:
        struct.error: beyond the end of the file.
    """
    if offset > len(data):
        raise struct.error(f"nothing lies at {offset}")
    return struct.unpack_from(form, data, offset)


def _first_directory(data: bytes | memoryview) -> int:
    """Where the first page is described."""
    order, word, _ = layout_of(data)
    return int(unpack(f"{order}{word}", data, 8 if word == "Q" else 4)[0])


def page_directories(data: bytes | memoryview) -> list[int]:
    """Where each page is described; smaller copies and masks of transparency after the first are none.

    Raises:
        ValueError: the directories go round in a circle, or lie in each other.
        struct.error: one lies beyond the end of the file.
    """
    pages, seen, directory, left = list[int](), set[int](), _first_directory(data), len(data)
    order, word, _ = layout_of(data)
    while directory:
        if directory in seen or len(seen) == _MAX_DIRECTORIES:
            raise ValueError("damaged TIFF: its pages have no end")
        seen.add(directory)
        start, end = _extent(data, directory)
        left -= end - start
        if left < 0:  # looking at them would take the square of the file's length
            raise ValueError("damaged TIFF: its pages lie in each other")
        if not _first_values(data, directory).get(_SUBFILE, 0) & _REDUCED_OR_MASK or not pages:
            pages.append(directory)
        directory = int(unpack(f"{order}{word}", data, end)[0])
    return pages


class Tag(NamedTuple):
    """A tag of a directory and where its values are."""

    number: int
    kind: int
    num: int
    """Of values."""
    place: int
    """Of the first value; maybe beyond the end of the file."""
    size: int
    """Bytes of all values."""


def tags_at(data: bytes | memoryview, directory: int) -> Iterator[Tag]:
    """The tags of a directory that have values of a known type.

    Raises:
        struct.error: the directory ends beyond the end of the file.
        ValueError: its values are longer than the file, those left out that lie beyond its end: of a tag that nobody
            needs, other programs make nothing of that.
    """
    order, word, _ = layout_of(data)
    room = struct.calcsize(f"{order}{word}")
    start, end = _extent(data, directory)
    places, left = range(start + 4 + room, end, 4 + 2 * room), len(data)
    entries = struct.iter_unpack(f"{order}HH{word}{word}", bytes(data[start:end]))
    for here, (number, kind, num, there) in zip(places, entries, strict=True):
        size = _SIZES.get(kind, 0) * num
        place = here if size <= room else there
        if kind in _FORMS or place + size <= len(data):
            left -= size
        if left < 0:  # no file repeats its own bytes over and over but one that is made to
            raise ValueError("damaged TIFF: its tags are longer than the file")
        if size:
            yield Tag(number, kind, num, place, size)


def _extent(data: bytes | memoryview, directory: int) -> tuple[int, int]:
    """Where the tags of a directory begin and end."""
    order, word, count_form = layout_of(data)
    (num_tags,) = unpack(f"{order}{count_form}", data, directory)
    start = directory + struct.calcsize(f"{order}{count_form}")
    end = start + num_tags * struct.calcsize(f"{order}HH{word}{word}")
    if end > len(data):
        raise struct.error(f"a directory ends at {end}")
    return start, end


def _first_values(data: bytes | memoryview, directory: int) -> dict[int, int]:
    """The first value of each of a directory's tags of whole numbers.

    Raises:
        struct.error: one lies beyond the end of the file.
        ValueError: as `tags_at`.
    """
    order = layout_of(data).order
    values = dict[int, int]()
    for tag in tags_at(data, directory):
        if tag.kind in _FORMS:
            _check_within(data, tag)
            values[tag.number] = int(unpack(f"{order}{_FORMS[tag.kind]}", data, tag.place)[0])
    return values


class Strips(NamedTuple):
    """Where the pixels of a page are: the strips, or tiles, that they are stored in."""

    tag: int
    """That of the offsets."""
    offsets: np.ndarray
    """(n,) whole numbers: where each begins."""
    lengths: np.ndarray
    """(n,) whole numbers: its bytes."""

    def lie_within(self, length: int) -> bool:
        """Whether all of them lie in a file of so many bytes."""
        if max(self.offsets.max(), self.lengths.max()) > length:  # their sums may be beyond 64 bits
            return False
        return bool((self.offsets.astype(np.uint64) + self.lengths).max() <= length)


def strips_of(data: bytes | memoryview, directory: int) -> Strips:
    """Where the pixels of a page are.

    Raises:
        struct.error: what says so lies beyond the end of the file.
        ValueError: nothing says so.
    """
    tags = {tag.number: tag for tag in tags_at(data, directory) if tag.kind in _FORMS}
    for offsets, lengths in _PLACES:
        if offsets in tags and lengths in tags and tags[offsets].num == tags[lengths].num:
            return Strips(offsets, _values(data, tags[offsets]), _values(data, tags[lengths]))
    raise ValueError("damaged TIFF: it does not say where its pixels are")


def _values(data: bytes | memoryview, tag: Tag) -> np.ndarray:
    """The (num,) whole numbers of a tag: a copy, for a file that is mapped cannot be closed while there are views."""
    _check_within(data, tag)
    form = layout_of(data).order + _FORMS[tag.kind]
    return np.frombuffer(bytes(data[tag.place : tag.place + tag.size]), form)


def _check_within(data: bytes | memoryview, tag: Tag) -> None:
    if tag.place + tag.size > len(data):
        raise struct.error(f"the values of a tag end at {tag.place + tag.size}")


def _most_bytes(header: TiffHeader) -> int:
    """What the strips or tiles of an image may come to, generously: the last of them may be filled up, colours may be
    stored for several pixels at once, and the values of a pixel may have different depths."""
    width, height = (
        math.ceil(side / max(1, block)) * block
        for side, block in zip((header.width, header.height), header.block, strict=True)
    )
    bits = min(header.depth * header.samples, _MAX_BITS)
    return 2 * min(width * height, MAX_PIXELS) * math.ceil(bits / 8) + (1 << 16)


def _inflate(data: bytes, strips: Strips, most: int) -> None:
    """Decompress every strip for the checksum at its end, which libtiff does not look at; `most` bytes come of them."""
    try:
        for offset, length in zip(map(int, strips.offsets), map(int, strips.lengths), strict=True):
            strip = zlib.decompressobj()
            for at in range(offset, offset + length, _PIECE):
                most -= len(strip.decompress(data[at : min(at + _PIECE, offset + length)]))
                if most < 0:
                    raise ValueError("damaged TIFF: its strips hold more than an image of its size")
                if strip.eof:
                    break
            if not strip.eof:
                raise ValueError("damaged TIFF: a strip is cut short")
    except zlib.error as error:
        raise ValueError(f"damaged TIFF: {error}") from error
