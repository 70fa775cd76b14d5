"""The run-length codec: values worked by hand, properties, every way to be malformed, and the real strings."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steel.errors import InputError
from steel.labels.rle import decode_rle, encode_rle

REAL_DATA = os.environ.get("STEEL_REAL_DATA")

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


def paint_by_loop(rle: str, height: int, width: int) -> np.ndarray:
    """The definition, pixel by pixel: column-major numbers from 1."""
    mask = np.zeros((height, width), np.uint8)
    numbers = [int(word) for word in rle.split()]
    for start, length in zip(numbers[0::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            mask[pixel % height, pixel // height] = 1
    return mask


def test_pixels_are_numbered_down_the_columns():
    mask = decode_rle("2 3 9 1", 3, 4)
    assert mask.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]]
    assert mask.dtype == np.uint8
    assert mask.flags.c_contiguous
    assert encode_rle(mask) == "2 3 9 1"


@pytest.mark.parametrize(
    ("rle", "rows"),
    [
        ("", [[0, 0], [0, 0]]),
        ("   ", [[0, 0], [0, 0]]),
        ("1 4", [[1, 1], [1, 1]]),
        ("1 1", [[1, 0], [0, 0]]),
        ("4 1", [[0, 0], [0, 1]]),
        ("1 1 4 1", [[1, 0], [0, 1]]),
        (" 1  2 \n", [[1, 0], [1, 0]]),
    ],
)
def test_small_masks(rle, rows):
    assert decode_rle(rle, 2, 2).tolist() == rows
    assert encode_rle(np.array(rows, np.uint8)) == " ".join(rle.split())


def test_touching_runs_are_read_and_written_as_one():
    mask = decode_rle("1 2 3 2", 3, 3)
    assert encode_rle(mask) == "1 4"


@given(masks)
def test_decode_undoes_encode(mask):
    rle = encode_rle(mask)
    assert np.array_equal(decode_rle(rle, *mask.shape), mask)
    assert np.array_equal(paint_by_loop(rle, *mask.shape), mask)


@given(masks, st.integers(1, 255))
def test_every_value_but_zero_is_inside_and_any_layout_will_do(mask, value):
    rle = encode_rle(mask)
    assert encode_rle(mask.astype(np.uint8) * np.uint8(value)) == rle
    assert encode_rle(np.asfortranarray(mask)) == rle
    wide = np.repeat(mask, 2, axis=1)
    assert encode_rle(wide[:, ::2]) == rle
    read_only = mask.copy()
    read_only.flags.writeable = False
    assert encode_rle(read_only) == rle


@st.composite
def runs(draw):
    """Sorted runs that may touch, with the image they fill to some extent."""
    steps = draw(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=20))
    numbers, at = [], 1
    for gap, length in steps:
        at += gap
        numbers += [at, length]
        at += length
    height = draw(st.integers(1, 40))
    width = -(-(at - 1) // height) + draw(st.integers(0, 2))
    return " ".join(map(str, numbers)), height, width


@given(runs())
def test_decode_is_the_definition(case):
    rle, height, width = case
    assert np.array_equal(decode_rle(rle, height, width), paint_by_loop(rle, height, width))


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ("1 2 3", "an odd count of numbers, 3; the last start, 3, has no length"),
        ("5", "an odd count of numbers, 1; the last start, 5, has no length"),
        ("1 2 5 0", r"pair 2 \(5 0\) has a length below 1"),
        ("1 2 5 -3", r"pair 2 \(5 -3\) has a length below 1"),
        ("0 2", r"pair 1 \(0 2\) lies outside of the 4x5 image, pixels 1 to 20"),
        ("-1 2", r"pair 1 \(-1 2\) lies outside"),
        ("21 1", r"pair 1 \(21 1\) lies outside"),
        ("3 2 20 2", r"pair 2 \(20 2\) lies outside"),
        ("1 30", r"pair 1 \(1 30\) lies outside"),
        ("7 2 3 2", r"pair 2 \(3 2\) overlaps .* or the pairs are not sorted"),
        ("3 4 6 2", r"pair 2 \(6 2\) overlaps"),
        ("3 4 3 4", r"pair 2 \(3 4\) overlaps"),
        ("1 1 99999999999999999999999 1", "RLE: 99999999999999999999999 in pair 2 lies outside of every image"),
        ("1 1\t99999999999999999999999 1", "RLE: 99999999999999999999999 in pair 2 lies outside of every image"),
        ("1 1 5 -99999999999999999999999", "RLE: -99999999999999999999999 in pair 2 lies outside of every image"),
        (f"{'9' * 5000} 1", r"RLE: 9{37}\.\.\. in pair 1 lies outside of every image"),
        ("1 9223372036854775807 5 1", r"pair 1 \(1 9223372036854775807\) lies outside"),
        ("9223372036854775807 9", r"pair 1 .* lies outside"),
        ("1 2 5 x", "'x' in pair 2 is not a whole number"),
        ("1.5 2", "'1.5' in pair 1 is not a whole number"),
        ("1 1_0", "'1_0' in pair 1 is not a whole number"),
        ("1,2", "'1,2' in pair 1 is not a whole number"),
        ("nan", "'nan' in pair 1"),
    ],
)
def test_malformed_text_names_the_pair(rle, message):
    with pytest.raises(InputError, match=message):
        decode_rle(rle, 4, 5)


@settings(max_examples=300)
@given(st.lists(st.integers(-3, 26), max_size=8))
def test_what_is_accepted_is_what_the_rules_allow(numbers):
    starts, lengths = numbers[0::2], numbers[1::2]
    ends = [start + length for start, length in zip(starts, lengths, strict=False)]
    legal = (
        len(numbers) % 2 == 0
        and all(length >= 1 for length in lengths)
        and all(start >= 1 and end <= 21 for start, end in zip(starts, ends, strict=False))
        and all(following >= end for following, end in zip(starts[1:], ends[:-1], strict=False))
    )
    rle = " ".join(map(str, numbers))
    if legal:
        assert np.array_equal(decode_rle(rle, 4, 5), paint_by_loop(rle, 4, 5))
    else:
        with pytest.raises(InputError):
            decode_rle(rle, 4, 5)


@pytest.mark.skipif(not REAL_DATA, reason="STEEL_REAL_DATA is not set")
@pytest.mark.parametrize("name", ["train_partial.csv", "submission_example.csv"])
def test_real_strings_come_back_character_for_character(name):
    with open(Path(str(REAL_DATA)) / "severstal_annotations" / name, newline="") as file:
        strings = [row["EncodedPixels"] for row in csv.DictReader(file)]
    assert len(strings) > 4000
    for rle in strings:
        mask = decode_rle(rle, 256, 1600)
        assert encode_rle(mask) == rle
        assert int(mask.sum()) == sum(map(int, rle.split()[1::2]))
