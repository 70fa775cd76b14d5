"""Crops and augmentation: what a crop shows, what its target says, and that one number decides it all."""

import pickle
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import SamplingConfig, TransformConfig
from steel.errors import InputError
from steel.images.strip import BLACK_LEVEL
from steel.loading.augment import TRANSFORMS, Augmenter
from steel.loading.crop import draw_size, place_window, to_target

NAMES = tuple(TRANSFORMS)
SEEDS = st.integers(0, 2**64 - 1)


Named = tuple[str, TransformConfig]


def one(name: str, p: float = 0.5, strength: float = 1.0) -> Named:
    return name, TransformConfig(p, strength)


def augmenter(
    *transforms: Named,
    crop: tuple[int, int] = (24, 32),
    num_classes: int = 4,
    ignore_bit: int | None = None,
    max_black: float = 1.0,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> Augmenter:
    return Augmenter(dict(transforms), crop, SamplingConfig(max_black=max_black, zoom=zoom), num_classes, ignore_bit)


def blocks(height: int, width: int, num_classes: int, seed: int, kind: type = np.uint8) -> np.ndarray:
    """A bitmask of random overlapping rectangles, one class each."""
    generator = np.random.default_rng(seed)
    bitmask = np.zeros((height, width), kind)
    for k in range(num_classes):
        top, left = int(generator.integers(0, height)), int(generator.integers(0, width))
        bitmask[top : top + 5, left : left + 7] |= kind(1 << k)
    return bitmask


def texture(height: int, width: int, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, *channels), dtype=np.uint8)


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
