"""COCO's run lengths: numbers of pixels outside, inside, outside, ... down the columns, as a list or as text."""

import numpy as np

from steel.errors import InputError


def decode_counts(text: str) -> np.ndarray:
    """The run lengths in COCO's compressed text.

    Each number has 5 bits a character, the lowest first, from `0` (48) on; bit 5 says that more follow. From the fourth
    number on, what is written is the difference to the number two places before (`rleFrString` of pycocotools).

    Returns:
        (n,) int64.

    Raises:
        InputError: no such text.
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise InputError("RLE: not COCO's text") from error
    if not len(codes):
        return codes
    last = codes & 32 == 0
    if codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise InputError("RLE: not COCO's text, or cut short")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:
        raise InputError("RLE: a number beyond every image")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << 5 * lengths, 0)
    # The first three stand for themselves; the even places then add up among themselves, and so do the odd ones.
    numbers[2::2] = np.cumsum(numbers[2::2])
    numbers[1::2] = np.cumsum(numbers[1::2])
    return numbers


def counts_of(plane: np.ndarray) -> np.ndarray:
    """The run lengths (n,) int64 of a mask (height, width): outside first, down the columns."""
    pixels = np.concatenate([[False], plane.T.ravel() != 0])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    return np.diff(edges, prepend=0, append=plane.size)


def encode_counts(counts: np.ndarray) -> str:
    """Run lengths (n,) int64 as COCO's compressed text, see `decode_counts`."""
    numbers = counts.astype(np.int64)
    numbers[3:] -= counts[1:-2]
    text = bytearray()
    for number in numbers.tolist():
        more = True
        while more:
            low, number = number & 31, number >> 5
            more = number != (-1 if low & 16 else 0)
            text.append(48 + (low | 32 if more else low))
    return text.decode("ascii")


def check_counts(counts: np.ndarray, size: int) -> None:
    """Raises InputError unless run lengths are none below 0 and make up `size` pixels together."""
    if counts.size and (counts.min() < 0 or counts.max() > size):
        raise InputError(f"RLE: run lengths from {counts.min()} to {counts.max()} in an image of {size} pixels")
    if int(counts.sum()) != size:
        raise InputError(f"RLE: {int(counts.sum())} pixels, the image has {size}")


def fill_counts(counts: np.ndarray, plane: np.ndarray, *, by_rows: bool = False) -> int:
    """Draw run lengths, checked before, into a mask (height, width) of uint8; returns the number of pixels inside."""
    values = np.zeros(len(counts), np.uint8)
    values[1::2] = 1
    pixels = np.repeat(values, counts)
    plane |= pixels.reshape(plane.shape) if by_rows else pixels.reshape(plane.shape[::-1]).T
    return int(counts[1::2].sum())
