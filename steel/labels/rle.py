"""The run-length text of Kaggle's Severstal data: `start length start length ...`, one string a mask.

Pixels are numbered from 1 down the columns (top to bottom, then left to right); runs are sorted, do not overlap and
stay inside the image. Touching runs are allowed when reading; writing never makes them.
"""

import re

import cv2
import numpy as np
import numpy.typing as npt

from steel.errors import InputError


def decode_rle(rle: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw the mask that a run-length text describes.

    Args:
        rle: The pairs; blank for an empty mask.
        height: Rows of the image, in pixels.
        width: Columns of the image, in pixels.

    Returns:
        (height, width) uint8, 1 inside the runs and 0 outside, in C order.

    Raises:
        InputError: The text is no sorted list of runs inside the image; the message names the first pair at fault.
    """
    mask = np.zeros((height, width), np.uint8)
    numbers = _parse(rle)
    if not numbers.size:
        return mask
    _check(numbers, height, width)
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    ends = starts + lengths
    # Only the columns that the runs touch are drawn: alternating stretches of 0 and 1, then turned into rows.
    first, stop = int(starts[0]) // height, -(-int(ends[-1]) // height)
    stretches = np.empty(numbers.size + 1, np.int64)
    stretches[0] = starts[0] - first * height
    stretches[1::2] = lengths
    stretches[2:-1:2] = starts[1:] - ends[:-1]
    stretches[-1] = stop * height - ends[-1]
    values = np.zeros(stretches.size, np.uint8)
    values[1::2] = 1
    columns = np.repeat(values, stretches)
    cv2.transpose(columns.reshape(stop - first, height), dst=mask[:, first:stop])
    return mask


def encode_rle(mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> str:
    """Write a mask as run-length text.

    Args:
        mask: (height, width) bool or uint8; every value but 0 is inside.

    Returns:
        `start length` pairs, the fewest possible; "" for an empty mask.
    """
    height = mask.shape[0]
    mask = mask.view(np.uint8)
    filled = np.flatnonzero(np.bitwise_or.reduce(mask, axis=0))
    if not filled.size:
        return ""
    first, stop = int(filled[0]), int(filled[-1]) + 1
    # A zero before and after the columns, so that each run begins and ends with a change of value.
    pixels = np.zeros((stop - first) * height + 2, np.uint8)
    inside = (mask[:, first:stop] != 0).view(np.uint8)
    cv2.transpose(inside, dst=pixels[1:-1].reshape(stop - first, height))
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    numbers = np.empty(edges.size, np.int64)
    numbers[0::2] = edges[0::2] + (first * height + 1)
    numbers[1::2] = edges[1::2] - edges[0::2]
    return ("%d " * numbers.size % tuple(numbers.tolist()))[:-1]


def _parse(rle: str) -> npt.NDArray[np.int64]:
    """The numbers of the text, in order; refuses an odd count and whatever is not a whole number."""
    if not rle.strip():
        return np.empty(0, np.int64)
    # numpy's own reader is 5 times faster than `int` on each word, but says little about what it cannot read.
    if rle.isascii() and not rle.encode().translate(None, b"0123456789 "):
        numbers = np.fromstring(rle, dtype=np.int64, sep=" ")
        if numbers.max() == _LARGEST:  # what numpy makes of all that is larger, too
            _refuse_large(rle)
    else:
        numbers = np.array([_whole_number(word, at) for at, word in enumerate(rle.split())], dtype=np.int64)
    if numbers.size % 2:
        raise InputError(f"RLE: an odd count of numbers, {numbers.size}; the last start, {numbers[-1]}, has no length")
    return numbers


def _whole_number(word: str, at: int) -> int:
    if not re.fullmatch("-?[0-9]+", word):
        raise InputError(f"RLE: '{word}' in pair {at // 2 + 1} is not a whole number")
    _refuse_large(word, at)
    return int(word)


_LARGEST = 2**63 - 1


def _refuse_large(text: str, first: int = 0) -> None:
    """Refuse the first of some whole numbers, of which `first` stand before, that does not fit 64 bits."""
    for at, word in enumerate(text.split(), first):
        if not -_LARGEST <= _int(word) <= _LARGEST:
            raise InputError(f"RLE: {_shortened(word)} in pair {at // 2 + 1} lies outside of every image")


def _int(word: str) -> int:
    """A whole number; Python reads no text of more than 4,300 digits as one, and 20 are beyond every image already."""
    digits = word.lstrip("-").lstrip("0")
    size = int(digits or "0") if len(digits) <= 20 else _LARGEST + 1
    return -size if word.startswith("-") else size


def _shortened(word: str) -> str:
    return word if len(word) <= 40 else f"{word[:37]}..."


def _check(numbers: npt.NDArray[np.int64], height: int, width: int) -> None:
    """Refuse runs that are empty, unsorted, overlapping or outside the image, and name the first such pair."""
    starts, lengths = numbers[0::2], numbers[1::2]
    size = height * width
    # Differences only: a sum of two numbers that were not looked at yet could wrap around.
    apart = starts[1:] - starts[:-1] >= lengths[:-1]
    if numbers.min() >= 1 and apart.all() and size - starts[-1] >= lengths[-1] - 1:
        return
    before = 0
    for pair, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True), 1):
        where = f"RLE: pair {pair} ({start} {length})"
        if length < 1:
            raise InputError(f"{where} has a length below 1")
        if start < 1 or start + length - 1 > size:
            raise InputError(f"{where} lies outside of the {height}x{width} image, pixels 1 to {size}")
        if start <= before:
            raise InputError(f"{where} overlaps the pair before it, or the pairs are not sorted")
        before = start + length - 1
    raise AssertionError("the fast check refused runs in which the slow one finds no fault")
