"""Scores by size and confusions, worked out by hand."""

import numpy as np

from steel.metrics.confusion import image_confusion, pixel_confusion
from steel.metrics.sizes import area_octave, area_table, scores_by_size


def test_octaves() -> None:
    assert area_octave(np.array([0, 1, 2, 3, 4, 1023, 1024])).tolist() == [-1, 0, 1, 1, 2, 9, 10]


def test_scores_by_size_of_five_defects() -> None:
    counts = np.array(
        [
            [[0, 0, 5], [4, 8, 8]],  # 5 px missed; 8 px: half found, Dice 8/16
            [[0, 7, 6], [0, 0, 0]],  # 6 px: predicted elsewhere
            [[8, 8, 8], [0, 3, 0]],  # 8 px: all; 3 px that are not there
        ]
    )
    small, large = scores_by_size(counts)
    assert (small.min_area, small.end_area, small.defects, small.found) == (4, 8, 2, 0)
    assert (small.dice, small.pixel_recall) == (0, 0)
    assert (large.min_area, large.end_area, large.defects, large.found) == (8, 16, 2, 2)
    assert (large.dice, large.pixel_recall) == (0.75, 0.75)
    assert scores_by_size(np.zeros((3, 2, 3), np.int64)) == []


def test_areas_true_against_predicted() -> None:
    counts = np.array([[0, 0, 5], [4, 8, 8], [0, 3, 0], [0, 0, 0], [1, 33, 4]])
    octaves, table = area_table(counts)
    assert octaves.tolist() == [-1, 1, 2, 3, 4, 5]
    expected = np.zeros((6, 6), int)
    expected[2, 0] = 1  # 5 px, nothing predicted
    expected[3, 3] = 1  # 8 px, 8 predicted
    expected[0, 1] = 1  # nothing there, 3 predicted
    expected[2, 5] = 1  # 4 px, 33 predicted
    assert np.array_equal(table, expected)
    assert area_table(np.zeros((2, 3), int))[1].tolist() == [[0]]


def test_confusion_of_pixels_counts_overlaps_in_both_rows() -> None:
    bitmask = np.array([[0, 1, 3, 2], [0, 0, 4, 1 << 7]], np.uint8)  # the last pixel is ignored
    masks = np.zeros((3, 2, 4), bool)
    masks[0, 0, 1:3] = True  # class 1 where it is, and where it overlaps with class 2
    masks[2, :, 0] = True  # class 3 on the background
    masks[2, 1, 3] = True  # and where nothing counts
    found, background = pixel_confusion(masks, bitmask, ignore_bit=7)
    assert background.tolist() == [1, 3, 3]
    assert found.tolist() == [
        [1, 0, 0, 2],  # background: one right, two as class 3
        [0, 2, 0, 0],  # class 1: both right
        [1, 1, 0, 0],  # class 2: one missed, one (the overlap) called class 1
        [1, 0, 0, 0],  # class 3: missed
    ]
    clean = pixel_confusion(np.zeros((3, 2, 2), bool), np.zeros((2, 2), np.uint8)).confusion
    assert clean[0, 0] == clean.sum() == 4


def test_confusion_of_images() -> None:
    true = np.array([[False, False], [True, False], [True, True], [False, True]])
    said = np.array([[True, False], [True, False], [False, True], [False, False]])
    assert image_confusion(true, said).tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 1]]
