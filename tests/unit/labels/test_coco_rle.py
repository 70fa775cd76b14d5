"""COCO's run lengths against pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco_tools

from steel.errors import InputError
from steel.labels.coco_rle import check_counts, counts_of, decode_counts, encode_counts, fill_counts


def count(mask: np.ndarray) -> list[int]:
    """The run lengths of a mask, a pixel at a time."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_the_text_of_the_coco_tools(share: float) -> None:
    random = np.random.default_rng(int(100 * share))
    for size in ((1, 1), (7, 3), (256, 160), (3, 9000)):
        mask = (random.random(size) < share).astype(np.uint8)
        theirs = coco_tools.encode(np.asfortranarray(mask))["counts"].decode()
        counts = decode_counts(theirs)
        assert counts.tolist() == count(mask)
        assert counts_of(mask.astype(bool)).tolist() == count(mask)
        assert encode_counts(counts_of(mask.astype(bool))) == theirs
        check_counts(counts, mask.size)
        plane = np.zeros(size, np.uint8)
        assert fill_counts(counts, plane) == mask.sum()
        assert np.array_equal(plane, mask)


def test_by_rows() -> None:
    mask = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    plane = np.zeros((2, 3), np.uint8)
    fill_counts(np.array([1, 3, 2]), plane, by_rows=True)
    assert np.array_equal(plane, mask)


@pytest.mark.parametrize("text", ["o", "0\x7f", "é", " 1", "oooooooooo0"])
def test_what_is_no_such_text(text: str) -> None:
    with pytest.raises(InputError, match="RLE: "):
        decode_counts(text)


@pytest.mark.parametrize("counts", [[], [3], [7, -1], [2, 5], [2**62, 2**62, 2**62, 2**62, 6]])
def test_runs_that_do_not_fill_the_image(counts: list[int]) -> None:
    with pytest.raises(InputError, match="RLE: "):
        check_counts(np.array(counts, np.int64), 6)
