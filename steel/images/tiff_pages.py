"""TIFF files of several pages: each page as a file of its own, with its tags, its values and their compression."""

import struct
from itertools import accumulate
from typing import NamedTuple

from steel.images.tiff import Layout, layout_of, page_directories, strips_of, tags_at, unpack

_LEFT_OUT = frozenset((330, 34665, 34853, 40965))
"""Tags that point to further directories: smaller copies, EXIF, places and the like."""
_OLD_JPEG = 513
"""Where such a JPEG lies, which is not told by strips alone."""
_OFFSET_KINDS = {"I": 4, "Q": 16}


class _Entry(NamedTuple):
    """A tag and its values, as they are written."""

    tag: int
    kind: int
    num: int
    values: bytes


def count_pages(data: bytes | memoryview) -> int:
    """Pages of a TIFF, smaller copies of a page not counted.

    Raises:
        ValueError: damaged.
    """
    return len(_directories(data))


def page_of(data: bytes | memoryview, number: int) -> bytes:
    """A TIFF of one page of another.

    Args:
        data: a TIFF or BigTIFF.
        number: of the page, from 1.

    Raises:
        ValueError: damaged, or without such a page.
    """
    directories = _directories(data)
    if not 1 <= number <= len(directories):
        raise ValueError(f"a TIFF of {len(directories)} pages has no page {number}")
    directory = directories[number - 1]
    try:
        entries = _entries(data, directory)
        where = strips_of(data, directory)
    except struct.error as error:
        raise ValueError("damaged TIFF: cut short") from error
    if any(entry.tag == _OLD_JPEG for entry in entries):
        raise ValueError("a TIFF page with a JPEG of the old kind; save each page as a file of its own")
    places = zip(map(int, where.offsets), map(int, where.lengths), strict=True)
    if not where.lie_within(len(data)) or sum(map(int, where.lengths)) > len(data):
        raise ValueError("damaged TIFF: cut short")
    strips = [bytes(data[at : at + length]) for at, length in places]
    return _written(bytes(data[:4]), entries, where.tag, strips, layout_of(data))


def _directories(data: bytes | memoryview) -> list[int]:
    try:
        return page_directories(data)
    except struct.error as error:
        raise ValueError("damaged TIFF: cut short") from error


def _entries(data: bytes | memoryview, directory: int) -> list[_Entry]:
    """What a directory holds, but for what points elsewhere.

    Raises:
        struct.error: beyond the end of the file.
        ValueError: more than there can be.
    """
    return [
        _Entry(tag.number, tag.kind, tag.num, unpack(f"{tag.size}s", data, tag.place)[0])
        for tag in tags_at(data, directory)
        if tag.number not in _LEFT_OUT
    ]


def _written(magic: bytes, entries: list[_Entry], offsets_tag: int, strips: list[bytes], layout: Layout) -> bytes:
    """A file of one directory: its head, its tags, their longer values, then the strips."""
    order, word, count_form = layout
    room = struct.calcsize(f"{order}{word}")
    form = f"{order}{len(strips)}{word}"
    offsets = _Entry(offsets_tag, _OFFSET_KINDS[word], len(strips), bytes(struct.calcsize(form)))
    entries = [offsets if entry.tag == offsets_tag else entry for entry in entries]
    head = magic + (struct.pack(f"{order}HHQ", 8, 0, 16) if word == "Q" else struct.pack(f"{order}I", 8))
    values_at = len(head) + struct.calcsize(f"{order}{count_form}") + len(entries) * (4 + 2 * room) + room
    pixels_at = values_at + sum(_even(len(entry.values)) for entry in entries if len(entry.values) > room)
    *places, _ = accumulate(map(len, strips), initial=pixels_at)
    values = b""
    parts = [head, struct.pack(f"{order}{count_form}", len(entries))]
    for entry in entries:
        written = struct.pack(form, *places) if entry is offsets else entry.values
        parts.append(struct.pack(f"{order}HH{word}", entry.tag, entry.kind, entry.num))
        if len(written) <= room:
            parts.append(written.ljust(room, b"\0"))
        else:
            parts.append(struct.pack(f"{order}{word}", values_at + len(values)))
            values += written.ljust(_even(len(written)), b"\0")
    return b"".join([*parts, bytes(room), values, *strips])


def _even(length: int) -> int:
    return length + length % 2
