"""Crops: what a crop shows, at what scale, and what its target says."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.images.strip import BLACK_LEVEL
from steel.loading.crop import Distortion, Window, cut_distorted, draw_size, place_window, to_target
from tests.augmenting import NAMES, SEEDS, augmenter, blocks, one, texture

# --- targets -------------------------------------------------------------------------------------------------------


def test_target_moves_the_ignore_bit_behind_the_classes() -> None:
    bitmask = np.array([[0b0000_0101, 0b1000_0000, 0b1000_0010, 0]], np.uint8)
    assert to_target(bitmask, 3, 7).tolist() == [[0b0101, 0b1000, 0b1010, 0]]
    assert to_target(bitmask & 7, 3, None).tolist() == [[0b101, 0, 0b010, 0]]


def test_targets_of_many_classes_are_int32() -> None:
    bitmask = np.array([[1 << 11, 1 << 15, 0]], np.uint16)
    target = to_target(bitmask, 12, 15)
    assert target.dtype == np.int32
    assert target.tolist() == [[1 << 11, 1 << 12, 0]]
    assert to_target(np.array([[255]], np.uint8), 8, None).dtype == np.int32  # eight classes leave no bit for invalid
    assert to_target(np.array([[1 << 15]], np.uint16), 16, None).tolist() == [[1 << 15]]


def test_target_without_change_is_no_copy() -> None:
    bitmask = np.zeros((4, 4), np.uint8)
    assert to_target(bitmask, 4, None) is bitmask
    assert to_target(bitmask, 7, 7) is bitmask


# --- crops ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 90)),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 50)),
    channels=st.sampled_from([(), (3,)]),
    seed=SEEDS,
)
def test_a_plain_crop_is_a_piece_of_the_image_and_mirrored_outside(
    size: tuple[int, int], crop: tuple[int, int], channels: tuple[int, ...], seed: int
) -> None:
    image, bitmask = texture(*size, *channels), blocks(*size, 4, seed % 1000)
    crop_image, target = augmenter(crop=crop)(image, bitmask, seed=seed)
    assert crop_image.shape == (*crop, *channels)
    assert target.shape == crop
    assert target.dtype == np.uint8
    valid = target != 1 << 4
    assert valid.sum() == min(size[0], crop[0]) * min(size[1], crop[1])
    rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    tops, lefts = range(size[0] - len(rows) + 1), range(size[1] - len(columns) + 1)
    cut_out = [np.s_[top : top + len(rows), left : left + len(columns)] for top in tops for left in lefts]
    matches = [c for c in cut_out if np.array_equal(image[c], crop_image[inside])]
    assert any(np.array_equal(bitmask[c], target[inside]) for c in matches)
    if len(rows) > 1 and rows[0] > 0:  # one row above the image mirrors the row below its first
        assert np.array_equal(crop_image[rows[0] - 1, columns], crop_image[rows[0] + 1, columns])


def test_crops_fall_everywhere() -> None:
    image = np.arange(12, dtype=np.uint8)[None, :].repeat(4, axis=0) + 50
    starts = [int(augmenter(crop=(4, 5))(image, image * 0, seed=s)[0][0, 0]) - 50 for s in range(400)]
    assert np.bincount(starts, minlength=8).min() > 25  # 8 places, 50 each on average


@settings(deadline=None, max_examples=150)
@given(
    size=st.tuples(st.integers(3, 60), st.integers(3, 120)),
    crop=st.tuples(st.integers(3, 40), st.integers(3, 50)),
    target_class=st.integers(1, 4),
    seed=SEEDS,
    strength=st.floats(0.2, 3.0),
)
def test_focused_crops_hold_their_class_under_every_transform_but_blackout(
    size: tuple[int, int], crop: tuple[int, int], target_class: int, seed: int, strength: float
) -> None:
    bitmask = np.zeros(size, np.uint8)
    generator = np.random.default_rng(seed)
    bitmask[int(generator.integers(size[0])), int(generator.integers(size[1]))] = 1 << (
        target_class - 1
    )  # a single pixel
    transforms = [one(name, 1.0, strength) for name in NAMES if name != "blackout"]
    _, target = augmenter(*transforms, crop=crop, max_black=0.5)(
        texture(*size), bitmask, seed=seed, target_class=target_class
    )
    assert np.any(target & 1 << (target_class - 1))


def test_focus_picks_every_pixel_of_the_class() -> None:
    bitmask = np.zeros((10, 200), np.uint8)
    bitmask[3, 20:24] = bitmask[7, 150] = 2
    windows = [
        place_window(Random(seed), texture(10, 200), bitmask, (10, 16), target_class=2, max_black=1.0)
        for seed in range(500)
    ]
    anchors = [window.anchor for window in windows]
    assert set(anchors) == {(3, 20), (3, 21), (3, 22), (3, 23), (7, 150)}
    assert 60 < anchors.count((7, 150)) < 140
    offsets = {window.anchor[1] - window.left for window in windows}
    assert offsets == set(range(16))  # the defect may lie anywhere in the crop


def test_focus_on_a_class_that_is_not_there_is_any_crop() -> None:
    image, target = augmenter()(texture(40, 60), np.zeros((40, 60), np.uint8), seed=1, target_class=2)
    assert image.shape == (24, 32)
    assert not target.any()


def test_mostly_black_crops_are_rare_and_one_that_must_be_is_taken() -> None:
    image = texture(32, 320)
    image[:, 64:] = BLACK_LEVEL - 5  # four fifths are off the strip
    bitmask = np.zeros((32, 320), np.uint8)

    def black_shares(max_black: float) -> np.ndarray:
        crops = [augmenter(crop=(32, 32), max_black=max_black)(image, bitmask, seed=s)[0] for s in range(300)]
        return np.array([(c <= BLACK_LEVEL).mean() for c in crops])

    assert (black_shares(1.0) > 0.8).mean() > 0.6
    assert (black_shares(0.5) > 0.55).mean() < 0.3
    black = np.zeros((32, 320), np.uint8)
    assert not augmenter(crop=(32, 32), max_black=0.5)(black, bitmask, seed=0)[0].any()


# --- scales --------------------------------------------------------------------------------------------------------


def test_half_of_the_size_is_the_mean_of_four_pixels_and_shows_four_times_as_much() -> None:
    image, bitmask = texture(40, 60), blocks(40, 60, 4, 0)
    small, target = augmenter(crop=(20, 30), zoom=(0.5, 0.5))(image, bitmask, seed=3)
    assert np.abs(small - image.reshape(20, 2, 30, 2).mean(axis=(1, 3))).max() <= 0.5
    there = bitmask.reshape(20, 2, 30, 2).transpose(0, 2, 1, 3).reshape(20, 30, 4)
    assert (target[..., None] == there).any(axis=-1).all()


def test_twice_the_size_shows_a_quarter_of_it() -> None:
    image, bitmask = texture(12, 16), blocks(12, 16, 4, 0)
    large, target = augmenter(crop=(24, 32), zoom=(2.0, 2.0))(image, bitmask, seed=0)
    assert np.array_equal(target, bitmask.repeat(2, axis=0).repeat(2, axis=1))
    assert np.abs(large[1::2, 1::2].astype(int) - image).mean() < np.abs(image[1:].astype(int) - image[:-1]).mean()


def test_scales_are_drawn_between_the_two_and_a_scale_and_its_inverse_are_as_likely() -> None:
    sizes = [draw_size(Random(seed), (100, 200), (0.5, 2.0)) for seed in range(2000)]
    heights = np.array([height for height, _ in sizes])
    assert all(abs(width - 2 * height) <= 1 for height, width in sizes)
    assert 50 <= heights.min() < 52 < 190 < heights.max() <= 200
    assert abs(np.mean(heights < 100) - 0.5) < 0.05


def test_one_scale_draws_no_random_number() -> None:
    rng = Random(5)
    before = rng.getstate()
    assert draw_size(rng, (24, 32), (0.5, 0.5)) == (48, 64)
    assert rng.getstate() == before


def test_what_lies_beyond_a_small_image_is_invalid_at_every_scale() -> None:
    _, target = augmenter(crop=(24, 32), zoom=(0.5, 0.5))(texture(24, 32), np.zeros((24, 32), np.uint8), seed=1)
    assert np.count_nonzero(target == 0) == 12 * 16
    assert np.count_nonzero(target == 1 << 4) == 24 * 32 - 12 * 16


def test_targets_of_many_classes_are_distorted_as_those_of_few_on_the_longest_images_too() -> None:
    """OpenCV warps each type of pixel in its own way, and some not at all from 32,767 pixels a side on."""
    few = np.random.default_rng(0).integers(0, 128, (64, 40_000), np.uint8)
    window, distortion = Window(0, 39_900, (30, 39_950), focused=False), Distortion(0.2, 0.05, 1.1, (2, -3))
    cut = [cut_distorted(few, few.astype(kind), window, distortion, (64, 96), 128)[1] for kind in (np.uint8, np.int32)]
    assert [target.dtype for target in cut] == [np.uint8, np.int32]
    assert np.array_equal(*cut) and (cut[0] == 128).any() and (cut[0] < 128).any()
    high = few.astype(np.int32) << 10
    assert np.array_equal(cut_distorted(few, high, window, distortion, (64, 96), 1 << 17)[1], cut[1] << 10)


@pytest.mark.parametrize(
    ("zoom", "share"), [((2.0, 2.0), 1.0), ((1.0, 2.0), 1.0), ((0.5, 2.0), 0.97), ((0.4, 0.5), 0.95)]
)
@pytest.mark.parametrize("affine", [0.0, 1.0])
def test_focused_crops_hold_their_class_unless_it_gets_thinner_than_a_pixel(
    zoom: tuple[float, float], share: float, affine: float
) -> None:
    """A defect of four pixels by four may be cut off at the crop's edge, and what is left of it be lost there."""
    generator, held = np.random.default_rng(0), []
    for seed in range(300):
        bitmask = np.zeros((64, 96), np.uint8)
        top, left = int(generator.integers(60)), int(generator.integers(92))
        bitmask[top : top + 4, left : left + 4] = 2
        make = augmenter(one("affine", affine), zoom=zoom)
        image, target = make(texture(64, 96), bitmask, seed=seed, target_class=2)
        assert image.shape == target.shape == (24, 32)
        held.append(bool(np.any(target & 2)))
    assert np.mean(held) >= share
