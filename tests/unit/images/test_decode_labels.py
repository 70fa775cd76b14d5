"""Masks: the values of a file as they were written, of whatever depth and type."""

import contextlib

import numpy as np
import pytest
from PIL import Image

from steel.images import decode
from steel.images.decode import decode_labels, decode_values, to_labels
from tests.image_files import DEEP, GRAY, LABELS, bmp, by_pillow, palette, png, tiff


def test_stored_values_are_those_that_were_written() -> None:
    packed = {
        1: b"\0\x50\0\xa0",
        2: b"\0\x1b\0\xe4",
        4: b"\0\x01\x23\0\x32\x10",
    }  # rows of LABELS, or of its lowest bit
    for depth, rows in packed.items():
        values = decode_labels(png((4, 2, depth, 0), rows))
        assert values.tolist() == (LABELS & 1 if depth == 1 else LABELS).tolist(), depth
    for data in (
        by_pillow(palette(LABELS), "PNG"),
        by_pillow(palette(LABELS), "TIFF"),
        by_pillow(palette(LABELS), "BMP"),
    ):
        assert decode_labels(data).tolist() == LABELS.tolist()
    for kind in ("PNG", "TIFF", "BMP"):
        assert decode_labels(by_pillow(Image.fromarray(LABELS * 85).convert("1", dither=0), kind)).max() == 1
        assert decode_labels(by_pillow(LABELS, kind)).tolist() == LABELS.tolist()
    for data in (by_pillow(DEEP, "PNG"), by_pillow(DEEP, "TIFF"), tiff(DEEP, compress=True)):
        assert decode_labels(data).tolist() == DEEP.tolist()


@pytest.mark.parametrize("gray", [0, 1])
@pytest.mark.parametrize("compress", [False, True])
def test_a_tiff_keeps_its_values_whether_0_is_shown_as_black_or_as_white(gray: int, compress: bool) -> None:
    """ImageJ stores objects as 255 and shows them as black, with its inverting table."""
    packed = {2: b"\x1b\xe4", 4: b"\x01\x23\x32\x10", 8: LABELS.tobytes()}
    for bits, rows in packed.items():
        data = tiff(LABELS, packed=(bits, rows), compress=compress, gray=gray)
        assert decode_labels(data).tolist() == LABELS.tolist(), bits
    for values in (255 * (LABELS & 1), LABELS.astype(np.uint16)):
        assert decode_labels(tiff(values, compress=compress, gray=gray)).tolist() == values.tolist()
    single = tiff(LABELS, packed=(1, b"\x50\xa0"), compress=compress, gray=gray)  # as faxes, which are black on white
    assert decode_labels(single).tolist() == ((LABELS & 1) ^ (1 - gray)).tolist()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_bmp_of_black_and_white_keeps_its_indices_whatever_its_bits(bits: int) -> None:
    """Pillow takes a palette of just these two for an image of single bits."""
    data = bmp(LABELS & 1, bits, [(0, 0, 0), (255, 255, 255)])
    assert decode_labels(data).tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]
    for end in range(len(data)):
        with pytest.raises(ValueError, match=r"BMP|empty"):
            decode_labels(data[:end])
    assert decode_labels(bmp(LABELS & 1, bits, [(255, 255, 255), (0, 0, 0)])).tolist() == (LABELS & 1).tolist()
    colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert decode_labels(bmp(LABELS, bits, colours)).tolist() == LABELS.tolist()


def test_colours_of_16_bits_keep_all_of_them() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack([DEEP, DEEP + 1, DEEP + 2]))
    assert np.array_equal(decode_labels(png((3, 2, 16, 2), rows)), np.dstack([DEEP, DEEP + 1, DEEP + 2]))


@pytest.mark.parametrize(
    ("values", "sample_format", "message"),
    [
        (
            np.array([[0, 0.99, 1, 0.5]], np.float32),
            3,
            "2 values that are not whole numbers from 0 to 65535, such as 0.99",
        ),
        (np.array([[np.nan, 1]], np.float64), 3, "1 values .* such as nan"),
        (np.array([[np.inf, 1]], np.float32), 3, "1 values .* such as inf"),
        (np.array([[0, -1, 1]], np.int8), 2, "1 values .* such as -1"),
        (np.array([[0, -3, -3]], np.int32), 2, "2 values .* such as -3"),
        (np.array([[65535, 65536]], np.uint32), 1, "1 values .* such as 65536"),
    ],
)
def test_values_that_are_no_labels_are_counted_and_shown(values: np.ndarray, sample_format: int, message: str) -> None:
    data = tiff(values, sample_format=sample_format)
    assert np.array_equal(decode_values(data), values, equal_nan=values.dtype.kind == "f")
    with pytest.raises(ValueError, match=message):
        decode_labels(data)


def test_whole_numbers_of_any_type_are_labels() -> None:
    for kind, sample_format in ((np.float64, 3), (np.float32, 3), (np.int32, 2), (np.int16, 2), (np.uint32, 1)):
        labels = decode_labels(tiff(np.array([[0, 1, 300]], kind), sample_format=sample_format))
        assert (labels.dtype, labels.tolist()) == (np.uint16, [[0, 1, 300]])
    assert to_labels(np.array([True, False])).tolist() == [1, 0]


def test_masks_that_lose_values_are_refused() -> None:
    for data, kind in ((by_pillow(GRAY, "JPEG"), "JPEG"), (by_pillow(GRAY, "WEBP"), "WebP")):
        with pytest.raises(ValueError, match=f"{kind} does not keep the values of masks"):
            decode_values(data)


def test_a_damaged_mask_that_pillow_would_complete_is_refused() -> None:
    pixels = GRAY[:40, :60] >> 6
    data = by_pillow(palette(pixels), "PNG")
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with contextlib.suppress(ValueError):
            assert np.array_equal(decode_values(bytes(damaged)), pixels), position
    with pytest.raises(ValueError, match="damaged PNG: cut short"):
        decode_values(data[:-12])


def test_own_masks_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from steel.shards.mask_codec import encode_mask

    for name in ("read_by_pillow", "_decode_by_opencv"):
        monkeypatch.setattr(decode, name, lambda *_: pytest.fail("took the slow way"))
    for kind in (np.uint8, np.uint16):
        decode_labels(encode_mask(np.eye(5, 7, dtype=kind)))
