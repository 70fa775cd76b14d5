"""A TIFF takes little more memory than it has bytes, whatever it says of itself, and what it says is checked."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from steel.images import tiff
from steel.images.decode import count_pixels, decode_pixels
from steel.images.exif import exif_orientation
from steel.images.tiff_pages import count_pages, page_of
from tests.image_files import GRAY, RGB, by_pillow
from tests.image_files import tiff as one_strip

MOST = 20_000_000
"""Bytes of memory that looking at a small file may take."""


def made(tags: dict[int, tuple[int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF of one byte a pixel, from tags as (type, count, value), and data that begins at 8."""
    usual = {258: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1), **tags}
    entries = b"".join(struct.pack("<HHII", number, *usual[number]) for number in sorted(usual))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(usual)) + entries + bytes(4)


def strip_of(width: int, height: int, data: bytes) -> bytes:
    """A TIFF of one strip of deflate."""
    size = {256: (4, 1, width), 257: (4, 1, height), 259: (3, 1, 8), 278: (4, 1, height)}
    return made({**size, 273: (4, 1, 8), 279: (4, 1, len(data))}, data)


def peak(look: Callable[[], object]) -> int:
    """The most memory that it took, in bytes."""
    tracemalloc.start()
    try:
        look()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_pixels_are_counted_where_none_can_be_decoded(compression: str) -> None:
    data = bytearray(by_pillow(GRAY, "TIFF", compression=compression))
    middle = len(data) // 2
    data[middle : middle + 900] = bytes([255]) * 900
    assert count_pixels(bytes(data)) == GRAY.size
    with pytest.raises(ValueError, match="damaged"):
        decode_pixels(bytes(data))


def test_a_strip_that_holds_more_than_its_image_is_not_decompressed() -> None:
    data = strip_of(10, 10, zlib.compress(bytes(200_000_000)))
    assert len(data) < 200_000
    assert count_pixels(data) == 100

    def look() -> None:
        with pytest.raises(ValueError, match="damaged TIFF: its strips hold more than an image of its size"):
            decode_pixels(data)

    assert peak(look) < MOST


def test_a_strip_of_deflate_is_looked_at_to_its_end() -> None:
    """In pieces, of which none but the last shows whether the sum over all of them is right."""
    pixels = np.random.default_rng(0).integers(0, 200, (400, 500), np.uint8)
    data = one_strip(pixels, compress=True)
    strip = zlib.compress(pixels.tobytes())
    assert len(strip) > 5 * tiff._PIECE and strip in data
    assert np.array_equal(decode_pixels(data), pixels)
    with pytest.raises(ValueError, match=r"damaged TIFF: .*incorrect data check"):
        decode_pixels(data.replace(strip, strip[:-1] + bytes([strip[-1] ^ 1])))
    with pytest.raises(ValueError, match="damaged TIFF: a strip is cut short"):
        decode_pixels(data.replace(struct.pack("<HHII", 279, 4, 1, len(strip)), struct.pack("<HHII", 279, 4, 1, 99)))
    padded = strip_of(500, 400, strip + bytes(50_000))
    assert np.array_equal(decode_pixels(padded), pixels)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (1, 1), (1030, 3)])
def test_tiles_that_reach_far_beyond_their_image_are_decoded(shape: tuple[int, ...]) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for tile in ((16, 16), (512, 512)):
        buffer = io.BytesIO()
        photometric = "rgb" if len(shape) == 3 else "minisblack"
        tifffile.imwrite(buffer, pixels, photometric=photometric, tile=tile, compression="zlib")
        assert np.array_equal(decode_pixels(buffer.getvalue()), pixels)


def test_an_image_counts_as_a_tile_that_is_larger() -> None:
    """For decoders make room for that."""
    tile = {256: (4, 1, 10), 257: (4, 1, 10), 322: (4, 1, 30_000), 323: (4, 1, 20_000)}
    assert count_pixels(made({**tile, 324: (4, 1, 8), 325: (4, 1, 10)}, bytes(10))) == 600_000_000
    tile[256] = tile[257] = (4, 1, 31_000)
    assert count_pixels(made({**tile, 324: (4, 1, 8), 325: (4, 1, 10)}, bytes(10))) == 31_000**2


def test_tags_that_are_longer_than_the_file_are_refused() -> None:
    """Each is within it, and all are of the same bytes."""
    size = {256: (4, 1, 10), 257: (4, 1, 10), 273: (4, 1, 8), 279: (4, 1, 100)}
    data = made(size | {40_000 + number: (3, 500_000, 8) for number in range(20)}, bytes(1_000_000))

    def look() -> None:
        for read in (count_pixels, decode_pixels, count_pages):
            with pytest.raises(ValueError, match="damaged TIFF: its tags are longer than the file"):
                read(data)

    assert peak(look) < 2_000_000
    assert exif_orientation(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", len(data), b"eXIf") + data) == 1


def test_many_strips_take_no_more_memory_than_they_have_bytes() -> None:
    count = 1_000_000
    size = {256: (4, 1, 10), 257: (4, 1, 10), 273: (3, count, 8), 279: (3, count, 8 + 2 * count)}
    data = made(size, bytes(4 * count))

    def look() -> None:
        with pytest.raises(ValueError, match="damaged"):
            decode_pixels(data)

    assert peak(lambda: count_pixels(data)) < 100_000
    assert peak(look) < 10 * len(data)


def test_pages_that_lie_in_each_other_are_refused() -> None:
    """Each has as many tags as the file has room for, and begins four bytes behind the one before."""
    pages, tags = 20_000, 20_000
    begun = struct.pack("<HH", tags, 0) * pages
    following = b"".join(struct.pack("<I", 8 + 4 * number) for number in range(1, pages)) + bytes(4)
    data = (b"II*\0" + struct.pack("<I", 8) + begun).ljust(10 + 12 * tags, b"\0") + following
    with pytest.raises(ValueError, match="damaged TIFF: its pages lie in each other"):
        count_pages(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_byte_of_a_bigtiff_that_is_wrong_is_no_defect(order: str, compression: str | None) -> None:
    """Its offsets may then be such as no file has."""
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=True, byteorder=order) as writer:
        for pixels in (GRAY[:8, :8], RGB[:6, :6]):
            kind = "rgb" if pixels.ndim == 3 else "minisblack"
            writer.write(pixels, photometric=kind, rowsperstrip=3, compression=compression, metadata=None)
    data = buffer.getvalue()
    refused = 0
    for at in range(4, len(data)):
        edited = data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]
        for read in (count_pixels, lambda data: page_of(data, 1), lambda data: decode_pixels(page_of(data, 2))):
            try:
                read(edited)
            except ValueError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("tag", [(305, 2, 100_000), (50001, 7, 1 << 20)], ids=["text", "private"])
def test_a_wrong_length_of_a_tag_that_nobody_needs_is_let_be(tag: tuple[int, int, int]) -> None:
    """As libtiff and Pillow do; beyond the end of the file there is nothing that could be read."""
    number, kind, num = tag
    size = {256: (4, 1, 3), 257: (4, 1, 2), 259: (3, 1, 1), 278: (4, 1, 2), 273: (4, 1, 8), 279: (4, 1, 6)}
    data = made({**size, number: (kind, num, 8)}, bytes(range(6)))
    assert decode_pixels(data).tolist() == [[0, 1, 2], [3, 4, 5]]
    turned = made({274: (3, 1, 6), 271: (2, num, 8)})
    assert exif_orientation(b"\xff\xd8\xff\xe1" + struct.pack(">H", len(turned) + 8) + b"Exif\0\0" + turned) == 6
