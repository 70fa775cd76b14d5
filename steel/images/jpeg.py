"""JPEG files: holes in their code that decoders fill with a plausible picture.

A file system or a network that loses a block leaves zeros. Zeros are code, too: in real strips every sixth hole of 512
bytes decodes to just the number of blocks that it replaced, and only the zeros themselves are left to see.
"""

import re
import struct

_HOLE = bytes(64)
"""So many zeros in a row, two blocks of 8x8 pixels and more, are no picture."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends the code: within it, 0xFF is followed by 0 or by a restart's number."""
_SEQUENTIAL = (0xC0, 0xC1)
_HUFFMAN_TABLES, _SCAN = 0xC4, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {_HUFFMAN_TABLES, 0xC8, 0xCC}
_AC = 0x10


def has_hole(data: bytes) -> bool:
    """Whether zeros stand in the code of a sequential JPEG where they cannot mean flat pixels.

    In a table of codes, that of zeros alone belongs to its first symbol. Where this is the end of a block, zeros are
    what flat pixels look like. In any other table, the usual ones of the standard among them, they would be block after
    block with every frequency at its limit.
    """
    if data.find(_HOLE) < 0:
        return False
    first_symbol: dict[int, int] = {}
    try:
        at = 2
        while True:
            marker, length = struct.unpack_from(">xBH", data, at)
            segment, at = data[at + 4 : at + 2 + length], at + 2 + length
            if marker in _FRAMES and marker not in _SEQUENTIAL:
                return False  # later scans of a progressive one refine what was flat with zeros
            if marker == _HUFFMAN_TABLES:
                first_symbol |= _first_symbols(segment)
            if marker == _SCAN:
                break
    except (struct.error, IndexError):
        return False  # damaged in another way, which its decoder tells
    end = _MARKER.search(data, at)
    tables = {_AC | selector & 0x0F for selector in segment[2 : 1 + 2 * segment[0] : 2]}
    is_flat = all(first_symbol.get(table, 0) == 0 for table in tables)
    return not is_flat and data.find(_HOLE, at, end.start() if end else len(data)) >= 0


def _first_symbols(segment: bytes) -> dict[int, int]:
    """The first symbol of each table that a segment defines, by the table's class and number."""
    found, at = {}, 0
    while at < len(segment):
        found[segment[at]] = segment[at + 17]
        at += 17 + sum(segment[at + 1 : at + 17])
    return found
