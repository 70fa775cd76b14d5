"""Augmentation: what each transform does to an image and its target, and that one number decides it all."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.errors import InputError
from steel.loading.crop import to_target
from tests.augmenting import NAMES, SEEDS, Named, augmenter, blocks, one, texture

# --- transforms ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=120)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True),
    size=st.tuples(st.integers(8, 50), st.integers(8, 70)),
    seed=SEEDS,
    num_classes=st.sampled_from([1, 4, 7, 8, 12]),
    channels=st.sampled_from([(), (3,)]),
    square=st.booleans(),
    zoom=st.sampled_from([(1.0, 1.0), (0.3, 0.5), (0.5, 2.0), (3.0, 3.0)]),
)
def test_targets_only_ever_hold_values_that_were_there(
    names: list[str],
    size: tuple[int, int],
    seed: int,
    num_classes: int,
    channels: tuple[int, ...],
    square: bool,
    zoom: tuple[float, float],
) -> None:
    kind, ignore_bit = (np.uint8, 7) if num_classes <= 7 else (np.uint16, 15)
    bitmask = blocks(*size, num_classes, seed % 997, kind)
    bitmask[:2, :2] = 1 << ignore_bit
    crop = (24, 24) if square else (24, 32)
    transforms = [one(name, 1.0) for name in names]
    make = augmenter(*transforms, crop=crop, num_classes=num_classes, ignore_bit=ignore_bit, zoom=zoom)
    image, target = make(texture(*size, *channels), bitmask, seed=seed)
    invalid = 1 << num_classes
    before = set(np.unique(to_target(bitmask, num_classes, ignore_bit)).tolist()) | {invalid}
    if {"blackout", "side_bars"} & set(names):
        before |= {value & invalid for value in before} | {0}
    assert set(np.unique(target).tolist()) <= before
    assert image.shape == (*crop, *channels)
    assert image.dtype == np.uint8
    assert target.dtype == (np.uint8 if num_classes <= 7 else np.int32)
    assert image.flags.c_contiguous


@pytest.mark.parametrize("name", ["hflip", "vflip", "rotate90"])
@pytest.mark.parametrize("crop", [(20, 20), (20, 28)])
def test_flips_and_turns_move_image_and_target_together(name: str, crop: tuple[int, int]) -> None:
    bitmask = blocks(*crop, 4, 3)
    image, target = augmenter(one(name, 1.0), crop=crop)(bitmask * 9 + 20, bitmask, seed=5)
    assert np.array_equal(image, target * 9 + 20)
    assert not np.array_equal(target, bitmask)


def test_turns_of_a_square_crop_take_all_three_quarters_and_of_others_only_the_half() -> None:
    image = np.zeros((6, 6), np.uint8)
    image[0, 0] = 200

    def corners(crop: tuple[int, int]) -> set[tuple[int, ...]]:
        make = augmenter(one("rotate90", 1.0), crop=crop)
        crops = [make(image[: crop[0], : crop[1]], image[: crop[0], : crop[1]] * 0, seed=s)[0] for s in range(40)]
        return {tuple(int(i) for i in np.argwhere(c)[0]) for c in crops}

    assert corners((6, 6)) == {(5, 0), (5, 5), (0, 5)}
    assert corners((4, 6)) == {(3, 5)}


def test_affine_keeps_image_and_target_aligned_and_marks_what_lies_outside() -> None:
    bitmask = np.zeros((64, 96), np.uint8)
    bitmask[20:44, 30:70] = 1
    image = bitmask * 100 + 50
    moved = 0
    for seed in range(60):
        make = augmenter(one("affine", 1.0, 2.0), crop=(64, 96))
        crop, target = make(image, bitmask, seed=seed)
        inside, outside, invalid = target == 1, target == 0, target == 1 << 4
        assert crop[inside].mean() > 140  # bilinear edges only
        assert crop[outside].mean() < 60
        assert 0 < inside.sum() < 64 * 96 * 0.5
        assert not np.any(crop[invalid] == 0)  # mirrored, not black
        moved += invalid.any() and not np.array_equal(target, bitmask)
    assert moved > 50


def test_affine_takes_real_pixels_from_around_the_crop() -> None:
    """In the middle of a large image nothing is outside, so nothing is invalid."""
    image, bitmask = texture(400, 400), np.zeros((400, 400), np.uint8)
    bitmask[200, 200] = 1
    make = augmenter(one("affine", 1.0), crop=(64, 96))
    for seed in range(40):
        assert not np.any(make(image, bitmask, seed=seed, target_class=1)[1] & 1 << 4)


def test_blackout_hides_every_defect_and_leaves_a_clean_target() -> None:
    generator = np.random.default_rng(0)
    looks = set()
    for seed in range(60):
        bitmask = blocks(64, 96, 4, seed)
        bitmask[0, 0] |= 128
        image = generator.integers(60, 120, (64, 96)).astype(np.uint8)
        image[(bitmask & 15) > 0] = 255  # any 255 left is a defect that still shows
        make = augmenter(one("blackout", 1.0), crop=(64, 96), ignore_bit=7)
        crop, target = make(image, bitmask, seed=seed)
        assert not np.any(target & 15)
        assert target[0, 0] == 16
        assert not np.any(crop == 255)
        hidden = (bitmask & 15) > 0
        looks.add("black" if not crop[hidden].any() else "steel")
        far = np.ones_like(hidden)
        for row, column in np.argwhere(hidden):
            far[max(0, row - 8) : row + 9, max(0, column - 8) : column + 9] = False
        assert np.array_equal(crop[far], image[far])
    assert looks == {"black", "steel"}


def test_blackout_of_a_crop_that_is_all_defect_is_black() -> None:
    image, bitmask = texture(24, 32), np.ones((24, 32), np.uint8)
    for seed in range(8):
        crop, target = augmenter(one("blackout", 1.0))(image, bitmask, seed=seed, target_class=1)
        assert not crop.any()
        assert not target.any()


def test_blackout_leaves_clean_images_alone() -> None:
    image = texture(24, 32)
    crop, _ = augmenter(one("blackout", 1.0))(image, image * 0, seed=0)
    assert np.array_equal(crop, image)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_side_bars_are_black_and_clean_and_never_hide_a_whole_class(channels: tuple[int, ...]) -> None:
    image, sides = texture(24, 100, *channels), set()
    bitmask = np.zeros((24, 100), np.uint8)
    bitmask[:, 10:90] = 1
    bitmask[5, 1] = bitmask[5, 98] = 2
    for seed in range(80):
        crop, target = augmenter(one("side_bars", 1.0), crop=(24, 100))(image, bitmask, seed=seed, target_class=0)
        black = ~crop.reshape(24, 100, -1).any(axis=(0, 2))
        assert not target[:, black].any()
        assert np.array_equal(target[:, ~black], bitmask[:, ~black])
        assert np.any(target & 2)
        assert black.sum() <= 25
        sides |= {side for side, column in (("left", 0), ("right", 99)) if black[column]}
    assert sides == {"left", "right"}
    alone = np.zeros((24, 100), np.uint8)
    alone[3, 0] = 4
    for seed in range(20):
        _, target = augmenter(one("side_bars", 1.0), crop=(24, 100))(image, alone, seed=seed, target_class=0)
        assert np.any(target & 4)


def test_noise_has_the_strength_it_says_and_differs_by_pixel() -> None:
    gray = np.full((64, 96), 128, np.uint8)
    sigmas = [
        augmenter(one("noise", 1.0), crop=(64, 96))(gray, gray * 0, seed=s)[0].astype(float).std() for s in range(60)
    ]
    assert 1.7 < min(sigmas) < 3.5
    assert 6.5 < max(sigmas) < 8.6


@pytest.mark.parametrize("name", ["brightness_contrast", "gamma", "noise", "blur"])
def test_photometric_transforms_change_the_image_only(name: str) -> None:
    bitmask = blocks(24, 32, 4, 1)
    image, target = augmenter(one(name, 1.0))(texture(24, 32), bitmask, seed=3)
    assert np.array_equal(target, bitmask)
    assert not np.array_equal(image, texture(24, 32))


# --- randomness ----------------------------------------------------------------------------------------------------


def all_transforms() -> list[Named]:
    return [one(name, 0.5) for name in NAMES]


def test_one_seed_gives_one_result_whatever_came_before_and_after_pickling() -> None:
    image, bitmask = texture(40, 60), blocks(40, 60, 4, 0)
    make = augmenter(*all_transforms())
    first = [make(image, bitmask, seed=s, target_class=s % 5) for s in range(30)]
    again = pickle.loads(pickle.dumps(make))
    for s in reversed(range(30)):
        for a, b in zip(first[s], again(image, bitmask, seed=s, target_class=s % 5), strict=True):
            assert np.array_equal(a, b)
    assert len({crop.tobytes() for crop, _ in first}) == 30


def test_the_whole_sample_is_left_as_it_was() -> None:
    image, bitmask = texture(24, 32), blocks(24, 32, 4, 0)
    before = image.copy(), bitmask.copy()
    image.setflags(write=False)
    bitmask.setflags(write=False)
    for seed in range(40):
        augmenter(*all_transforms())(image, bitmask, seed=seed, target_class=seed % 5)
    assert np.array_equal(image, before[0])
    assert np.array_equal(bitmask, before[1])


def test_transforms_are_applied_independently_of_each_other() -> None:
    """albumentations' own seeding would apply two flips of equal probability always together."""
    image = np.zeros((8, 8), np.uint8)
    image[0, 0] = 255
    make = augmenter(one("hflip"), one("vflip"), crop=(8, 8))
    corners = [np.argwhere(make(image, image * 0, seed=s)[0])[0] for s in range(800)]
    counts = np.bincount([2 * (row > 0) + (column > 0) for row, column in corners], minlength=4)
    assert counts.min() > 150


def test_what_has_a_probability_of_0_changes_nothing_not_even_the_random_numbers_of_the_others() -> None:
    image, bitmask = texture(40, 60), blocks(40, 60, 4, 0)
    some = [one("vflip", 0.5), one("noise", 0.5)]
    off = [one(name, 0.0) for name in NAMES]
    for s in range(30):
        expected = augmenter(*some)(image, bitmask, seed=s, target_class=s % 5)
        found = augmenter(*off, *some)(image, bitmask, seed=s, target_class=s % 5)
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_transforms_act_in_the_order_of_the_table_whatever_the_order_of_the_options() -> None:
    image, bitmask = texture(40, 60), blocks(40, 60, 4, 0)
    for s in range(20):
        forth = augmenter(*all_transforms())(image, bitmask, seed=s)
        back = augmenter(*reversed(all_transforms()))(image, bitmask, seed=s)
        assert all(np.array_equal(a, b) for a, b in zip(forth, back, strict=True))


def test_an_unknown_transform_is_refused() -> None:
    with pytest.raises(InputError, match=r"augment\.blurr: unknown; there are hflip, vflip, brightness_contrast"):
        augmenter(one("blurr"))


def test_random_numbers_of_one_seed_are_well_spread_over_seeds() -> None:
    """Consecutive seeds (they are hashes in practice) still apply a transform as often as it says."""
    image = np.zeros((4, 4), np.uint8)
    image[0, 0] = 255
    make = augmenter(one("hflip", 0.3), crop=(4, 4))
    flipped = [make(image, image * 0, seed=s)[0][0, 0] == 0 for s in range(1500)]
    assert abs(np.mean(flipped) - 0.3) < 0.06
