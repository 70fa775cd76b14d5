"""Histograms and pair counts, against counting pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.metrics.confusion import pixel_confusion
from steel.metrics.counts import counts_from, cross_entropy, dice, histograms
from tests.plain_counts import pair_counts


def test_histograms_of_a_worked_image() -> None:
    probs = np.array([[[0, 10, 255], [10, 10, 255]]], np.uint8)
    bitmask = np.array([[0, 1, 1], [0, 1, 0]], np.uint8)
    counts = histograms(probs, bitmask, 1)
    assert counts.shape == (1, 2, 256)
    assert {v: int(n) for v, n in enumerate(counts[0, 0]) if n} == {0: 1, 10: 1, 255: 1}
    assert {v: int(n) for v, n in enumerate(counts[0, 1]) if n} == {10: 2, 255: 1}


def test_ignored_pixels_are_in_no_count() -> None:
    probs = np.full((1, 2, 2), 200, np.uint8)
    bitmask = np.array([[0x80, 0x81], [0x01, 0x00]], np.uint8)  # the top row is ignored, whatever else it says
    counts = histograms(probs, bitmask, 1, ignore_bit=7)
    assert counts.sum() == 2
    assert counts[0, 1, 200] == 1
    masks = probs > 128
    assert pair_counts(masks, bitmask, 7).tolist() == [[1, 2, 1]]
    assert pixel_confusion(masks, bitmask, 7).background.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("dtype", "num_classes", "ignore_bit"), [(np.uint8, 3, 7), (np.uint16, 10, 15), (np.uint8, 8, None)]
)
def test_histograms_agree_with_counting_each_pixel(dtype: type, num_classes: int, ignore_bit: int | None) -> None:
    rng = np.random.default_rng(0)
    probs = rng.integers(0, 256, (num_classes, 17, 23), dtype=np.uint8)
    bits = rng.integers(0, 2, (num_classes, 17, 23))
    bitmask = (bits << np.arange(num_classes)[:, None, None]).sum(axis=0).astype(dtype)
    ignored = rng.random((17, 23)) < 0.3 if ignore_bit is not None else np.zeros((17, 23), bool)
    if ignore_bit is not None:
        bitmask[ignored] |= dtype(1 << ignore_bit)
    expected = np.zeros((num_classes, 2, 256), int)
    for k in range(num_classes):
        for y, x in zip(*np.nonzero(~ignored), strict=True):
            expected[k, bits[k, y, x], probs[k, y, x]] += 1
    assert np.array_equal(histograms(probs, bitmask, num_classes, ignore_bit), expected)


@pytest.mark.parametrize("commonest", [0, 7, 255])
@pytest.mark.parametrize("width", [23, 24])
@pytest.mark.parametrize("ignore_bit", [None, 7])
def test_histograms_of_images_that_are_mostly_one_value(commonest: int, width: int, ignore_bit: int | None) -> None:
    """Parts of larger arrays, as a padded batch has them; against numpy's own counts."""
    rng = np.random.default_rng(1)
    larger = np.full((2, 40, 32), commonest, np.uint8)
    larger[:, 10:20, 3:15] = rng.integers(0, 256, (2, 10, 12))
    probs = larger[:, :33, :width]
    bitmask = np.zeros((33, width), np.uint8)
    bitmask[12:18, 1:9] = 1
    if ignore_bit is not None:
        bitmask[5:14, 4:] |= 1 << ignore_bit
    counts, valid = histograms(probs, bitmask, 2, ignore_bit), bitmask < 128
    for k in range(2):
        for inside in range(2):
            chosen = probs[k][valid & ((bitmask >> k & 1) == inside)]
            assert np.array_equal(counts[k, inside], np.bincount(chosen, minlength=256))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([(1, 1), (3, 7), (129, 130), (200, 333)]),
    spread=st.sampled_from([0, 1, 3, 60]),
    bits=st.sampled_from([(np.uint8, None), (np.uint8, 7), (np.uint16, 15)]),
)
def test_histograms_agree_with_numpys_whatever_the_network_is_sure_of(
    seed: int, size: tuple[int, int], spread: int, bits: tuple[type, int | None]
) -> None:
    """From one value in most pixels to all values; of few pixels and of many, which are not counted in one way."""
    rng = np.random.default_rng(seed)
    dtype, ignore_bit = bits
    probs = np.minimum(rng.integers(0, 250) + np.abs(rng.normal(0, spread, (3, *size))), 255).astype(np.uint8)
    bitmask = rng.integers(0, np.iinfo(dtype).max + 1, size).astype(dtype)
    bitmask[rng.random(size) < rng.random()] = 0
    valid = np.ones(size, bool) if ignore_bit is None else bitmask >> ignore_bit & 1 == 0
    counts = histograms(probs, bitmask, 3, ignore_bit)
    for k in range(3):
        for inside in range(2):
            chosen = probs[k][valid & ((bitmask >> k & 1) == inside)]
            assert np.array_equal(counts[k, inside], np.bincount(chosen, minlength=256))


def test_histograms_are_exact_beyond_the_integers_of_float32() -> None:
    shape = (3, 2**24 // 3 + 2)  # an odd number of pixels, more than float32 can tell apart
    probs = np.zeros((1, *shape), np.uint8)
    assert histograms(probs, np.zeros(shape, np.uint8), 1)[0, 0, 0] == 2**24 + 5


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), thresholds=st.lists(st.integers(0, 256), min_size=2, max_size=2))
def test_counts_at_any_threshold_follow_from_the_histograms(seed: int, thresholds: list[int]) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.integers(0, 256, (2, 7, 9), dtype=np.uint8)
    bitmask = rng.integers(0, 4, (7, 9), dtype=np.uint8)
    masks = probs.astype(int) >= np.array(thresholds)[:, None, None]
    counts = histograms(probs, bitmask, 2)
    assert np.array_equal(counts_from(counts, np.array(thresholds)), pair_counts(masks, bitmask))
    assert np.array_equal(counts_from(counts[None], np.array(thresholds))[0], pair_counts(masks, bitmask))


def test_background_is_where_no_class_is() -> None:
    masks = np.array([[[1, 0, 0, 0]], [[1, 1, 0, 0]]], bool)
    bitmask = np.array([[1, 0, 2, 0]], np.uint8)
    assert pixel_confusion(masks, bitmask).background.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("counts", "expected"), [((0, 0, 0), 1.0), ((0, 5, 0), 0.0), ((0, 0, 5), 0.0), ((3, 4, 8), 0.5), ((7, 7, 7), 1.0)]
)
def test_dice_of_worked_pairs(counts: tuple[int, int, int], expected: float) -> None:
    assert dice(np.array(counts)) == expected


def test_cross_entropy_of_worked_counts() -> None:
    counts = np.zeros((1, 1, 2, 256), np.int64)
    counts[0, 0, 1, 51] = 3  # p = 0.2 inside
    counts[0, 0, 0, 51] = 1  # p = 0.2 outside
    counts[0, 0, 0, 0] = 4  # clipped to 0.5 / 255
    expected = (3 * -math.log(0.2) + -math.log(0.8) + 4 * -math.log(1 - 0.5 / 255)) / 8
    assert cross_entropy(counts) == pytest.approx(expected, rel=1e-12)
    assert cross_entropy(np.zeros((0, 4, 2, 256), np.uint32)) is None


def test_cross_entropy_does_not_depend_on_the_order_or_grouping_of_images() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 5000, (13, 2, 2, 256)).astype(np.uint32)
    assert cross_entropy(counts) == cross_entropy(counts[::-1]) == cross_entropy(counts.astype(np.int64).sum(axis=0))
