"""Whether folds differ in their gray levels: cases worked by hand, and the same as from the images themselves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from data_prep.gray_levels import fold_levels
from steel.shards.format import FoldLevels
from train.level_difference import LevelDifference, level_difference

EMPTY = FoldLevels(0, 0.0, 0.0)


def found(*folds: tuple[int, float, float]) -> LevelDifference:
    difference = level_difference([FoldLevels(*fold) for fold in folds])
    assert difference is not None
    return difference


def test_by_hand() -> None:
    """Two folds of two images: between them 2 * 2 * 0.05 ** 2 = 0.01 of one degree of freedom; with two of them within,
    p is 1 - sqrt(F / (F + 2))."""
    near = found((2, 0.41, 0.01), (2, 0.51, 0.01))  # within 2 * 2 * 0.01 ** 2 / 2 = 0.0002: F is 50
    assert near.p_value == pytest.approx(1 - math.sqrt(50 / 52), rel=1e-9)  # 0.0194
    assert (near.lowest, near.highest) == pytest.approx((0.41 * 255, 0.51 * 255))
    assert near.is_visible and not near.is_real
    nearer = found((2, 0.41, 0.005), (2, 0.51, 0.005))  # F is 200
    assert nearer.p_value == pytest.approx(1 - math.sqrt(200 / 202), rel=1e-9)  # 0.0050
    assert nearer.is_real


def test_folds_of_unlike_sizes_by_hand() -> None:
    """Means of 0.2, 0.4 and 0.6 of 1, 2 and 1 images: 0.4 of all, between them (0.04 + 0 + 0.04) / 2 = 0.04; within
    2 * 0.1 ** 2 = 0.02 of one degree of freedom. Of F(2, 1) = 2 p is 1 / sqrt(1 + 2 F)."""
    difference = found((1, 0.2, 0.0), (2, 0.4, 0.1), (1, 0.6, 0.0))
    assert difference.p_value == pytest.approx(1 / math.sqrt(5), rel=1e-9)
    assert (difference.lowest, difference.highest) == pytest.approx((51, 153))


def test_what_nobody_would_see_is_no_difference() -> None:
    """Of 10,000 images in each fold: a gray level and a half apart is beyond doubt, and too little."""
    difference = found((10_000, 100 / 255, 0.02), (10_000, 101.5 / 255, 0.02))
    assert difference.p_value < 1e-9 and not difference.is_visible and not difference.is_real
    assert found((10_000, 100 / 255, 0.02), (10_000, 102.1 / 255, 0.02)).is_real


def test_images_that_are_all_alike() -> None:
    assert found((3, 0.5, 0.0), (3, 0.5, 0.0)).p_value == 1
    assert found((3, 0.5, 0.0), (3, 0.6, 0.0)).p_value == 0


@pytest.mark.parametrize(
    "folds",
    [None, (FoldLevels(5, 0.5, 0.1), EMPTY), (FoldLevels(1, 0.2, 0.0), EMPTY, FoldLevels(1, 0.9, 0.0))],
    ids=["not measured", "one fold", "one image each"],
)
def test_nothing_can_be_told(folds: tuple[FoldLevels, ...] | None) -> None:
    assert level_difference(folds) is None


def test_folds_without_images_have_no_part() -> None:
    two = [FoldLevels(4, 0.5, 0.1), FoldLevels(6, 0.6, 0.1)]
    assert level_difference([EMPTY, two[0], EMPTY, two[1]]) == level_difference(two)


@pytest.mark.parametrize("seed", range(20))
def test_the_test_is_that_of_the_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    folds = np.repeat(np.arange(4), rng.integers(1, 30, 4))
    levels = (0.4 + 0.05 * rng.random(4)[folds] + 0.03 * rng.normal(size=len(folds))).clip(0, 1)
    difference = level_difference(fold_levels(levels, folds, 4))
    assert difference is not None
    assert difference.p_value == pytest.approx(stats.f_oneway(*(levels[folds == k] for k in range(4))).pvalue, rel=1e-9)


@given(st.lists(st.builds(FoldLevels, st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1)), max_size=5))
def test_any_manifest_gives_a_probability_or_nothing(folds: list[FoldLevels]) -> None:
    difference = level_difference(folds)
    assert difference is None or 0 <= difference.p_value <= 1


@pytest.mark.parametrize(
    ("lowest", "highest", "p_value", "strength"),
    [(100, 101, 0, 1), (100, 151, 0, 1), (60, 136.5, 0.009, 1.5), (60, 136.5, 0.01, 1), (0, 255, 0, 2)],
)
def test_brightness_changes_by_what_folds_differ(
    lowest: float, highest: float, p_value: float, strength: float
) -> None:
    """51 gray levels at a strength of 1: 76.5 are one and a half times that."""
    assert LevelDifference(lowest, highest, p_value).strength == strength
