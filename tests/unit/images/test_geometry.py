"""Sizes of images and probabilities, in and out."""

import cv2
import numpy as np
import pytest
import torch

from steel.errors import InputError
from steel.images.geometry import (
    images_per_pass,
    pad_to_stride,
    resize_bitmask,
    resize_image,
    restore_size,
    views_per_pass,
)
from steel.images.pixel_format import to_channels
from steel.model.network import reflect_to_stride

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_channels():
    assert to_channels(GRAY, 1) is GRAY
    assert to_channels(RGB, 3) is RGB
    as_rgb = to_channels(GRAY, 3)
    assert as_rgb.shape == (5, 7, 3)
    np.testing.assert_array_equal(to_channels(as_rgb, 1), GRAY)
    green = np.zeros((1, 1, 3), np.uint8)
    green[..., 1] = 255
    assert to_channels(green, 1).item() == 150  # 0.587, not another channel's weight


@pytest.mark.parametrize(
    "image",
    [GRAY.astype(np.float32), GRAY[None, None], GRAY[..., None], RGB[..., :2], GRAY.astype(np.uint16), GRAY[:0]],
)
def test_other_shapes_and_types_are_refused(image):
    with pytest.raises(InputError, match=r"\(H, W\) or \(H, W, 3\) uint8, not"):
        to_channels(image, 1)


def test_resize_averages_down_and_interpolates_up():
    image = np.array([[0, 100], [200, 100]], np.uint8)
    assert resize_image(image, (1, 1)).item() == 100
    np.testing.assert_array_equal(resize_image(np.array([[0, 100]], np.uint8), (1, 4)), [[0, 25, 75, 100]])
    assert resize_image(image, (2, 2)) is image
    assert resize_image(RGB, (10, 21)).shape == (10, 21, 3)


@pytest.mark.parametrize(("size", "stride"), [((5, 7), 8), ((1, 1), 4), ((9, 33), 32), ((8, 16), 8)])
def test_padding_is_the_networks_own(size, stride):
    image = RNG.integers(0, 256, size, dtype=np.uint8)
    expected = reflect_to_stride(torch.from_numpy(image)[None, None], stride)[0, 0].numpy()
    np.testing.assert_array_equal(pad_to_stride(image, stride), expected)


def test_restore_size():
    probs = RNG.integers(0, 256, (3, 4, 6), dtype=np.uint8)
    assert restore_size(probs, 4, 6) is probs
    restored = restore_size(probs, 8, 9)
    assert restored.shape == (3, 8, 9)
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored[1], cv2.resize(probs[1], (9, 8), interpolation=cv2.INTER_LINEAR))
    certain = np.stack([np.full((4, 6), value, np.uint8) for value in (0, 128, 255)])
    np.testing.assert_array_equal(restore_size(certain, 11, 13), np.broadcast_to(certain[:, :1, :1], (3, 11, 13)))


def test_masks_are_reduced_by_majority() -> None:
    bitmask = np.array([[1, 1, 0, 2], [1, 0, 0, 2], [0, 0, 128, 0], [0, 4, 128, 128]], np.uint8)
    assert resize_bitmask(bitmask, (2, 2)).tolist() == [[1, 2], [0, 128]]
    assert resize_bitmask(bitmask, (4, 4)) is bitmask
    assert resize_bitmask(np.zeros((4, 4), np.uint16), (2, 2)).dtype == np.uint16
    high = np.full((4, 4), 1 << 15, np.uint16)
    assert resize_bitmask(high, (2, 2)).tolist() == [[1 << 15] * 2] * 2


def box_averages(pixels: np.ndarray, size: int) -> np.ndarray:
    """(H, W) with its columns reduced to `size`, each the mean of what it covers, by running sums."""
    sums = np.concatenate([np.zeros((len(pixels), 1)), np.cumsum(pixels, axis=1, dtype=np.float64)], axis=1)
    edges = np.linspace(0, pixels.shape[1], size + 1)
    at_edges = np.stack([np.interp(edges, np.arange(sums.shape[1]), row) for row in sums])
    return np.diff(at_edges, axis=1) / (pixels.shape[1] / size)


@pytest.mark.parametrize("width", [48, 50, 77])
def test_a_side_that_shrinks_is_averaged_where_the_other_grows(width: int) -> None:
    image = RNG.integers(0, 256, (20, 300), dtype=np.uint8)
    found = resize_image(image, (31, width))
    averaged = box_averages(image, width).astype(np.float32)
    expected = cv2.resize(averaged, (width, 31), interpolation=cv2.INTER_LINEAR)
    assert abs(found - expected).max() <= 2
    turned = resize_image(np.ascontiguousarray(image.T), (width, 31))
    assert abs(turned.T - expected).max() <= 2
    lines = np.zeros((20, 300), np.uint8)
    lines[:, 120:124] = 1
    half = resize_bitmask(lines, (31, 150))
    assert np.argwhere(half[15]).ravel().tolist() == [60, 61] and (half == half[15]).all()


@pytest.mark.parametrize("size", [(9, 21), (40, 100), (31, 17)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_each_class_of_a_mask_is_resized_as_if_alone(size: tuple[int, int], kind: type) -> None:
    bitmask = RNG.integers(0, 1 << 10, (20, 50)).astype(kind)
    together = resize_bitmask(bitmask, size)
    assert together.dtype == kind and together.shape == size
    for k in range(8 * np.dtype(kind).itemsize):
        alone = (bitmask >> k & 1).astype(np.uint8) * 255
        covered = resize_image(alone, size) >= 128
        np.testing.assert_array_equal(together >> k & 1, covered)


@pytest.mark.parametrize(
    ("places", "views", "images", "together"),
    [
        *[(1, 4, 1, 1), (2, 4, 1, 2), (5, 4, 5, 1), (5, 2, 5, 1), (10, 4, 5, 2), (16, 4, 4, 4), (31, 2, 15, 2)],
        *[(3, 3, 1, 3), (4, 3, 4, 1), (8, 1, 8, 1), (0, 4, 1, 1)],
    ],
)
def test_views_share_a_pass_where_it_stays_full(places: int, views: int, images: int, together: int) -> None:
    pixels_per_pass = places * 32 * 40 + 7
    assert images_per_pass(32, 40, pixels_per_pass, None, views) == images
    assert views_per_pass(images * 32 * 40, pixels_per_pass, views) == together


def test_no_pass_is_larger_for_its_views_and_images_need_no_more_of_them() -> None:
    for places in range(1, 200):
        for views in range(1, 9):
            images = images_per_pass(1, 1, places, None, views)
            together = views_per_pass(images, places, views)
            assert images * together <= places
            assert views % together == 0
            assert views / together / images <= 1.06 * views / places


def test_images_in_tiles_come_one_by_one_whatever_their_views() -> None:
    assert images_per_pass(100, 100, 1 << 20, 9_999, 4) == 1
