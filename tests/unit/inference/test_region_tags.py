"""What stands beside regions: names, and the mean probability of what is predicted."""

import numpy as np

from steel.images.tags import Tag
from steel.inference.region_tags import MOST_MARKS, Mark, mark_regions, tags_of


def test_each_region_has_its_name_and_mean_probability_and_the_largest_comes_first() -> None:
    masks, probs = np.zeros((2, 20, 30), bool), np.full((2, 20, 30), 9, np.uint8)
    masks[0, 2:4, 3:5] = True  # 4 pixels: two of 255, two of 102
    probs[0, 2, 3:5], probs[0, 3, 3:5] = 255, 102
    masks[0, 10, 20] = True
    probs[0, 10, 20] = 51
    masks[1, 5:9, 1:11] = True
    probs[1, 5:9, 1:11] = 204
    marks = mark_regions(masks, probs)
    assert [mark[:3] for mark in marks] == [(1, 5, 2), (3, 2, 1), (20, 10, 1)]
    np.testing.assert_allclose([mark.mean_prob for mark in marks], [0.8, 0.7, 0.2])
    assert tags_of(marks, ["pit", "dent"], 0.5) == [
        Tag(0, 2, "dent 0.80", 2),
        Tag(2, 1, "pit 0.70", 1),
        Tag(10, 5, "pit 0.20", 1),
    ]
    assert tags_of(mark_regions(masks)[:1], ["pit", "dent"]) == [Tag(1, 5, "dent", 2)]


def test_of_many_regions_the_largest_are_named() -> None:
    masks = np.zeros((1, 4, 400), bool)
    masks[0, 0, ::3] = True
    masks[0, 0:3, 390:396] = True
    marks = mark_regions(masks)
    assert len(marks) == MOST_MARKS and marks[0] == Mark(390, 0, 1, None)
