"""Where a training crop lies and how it is cut, with or without an affine distortion, from an image and its target.

A crop may reach beyond the image: those image pixels are mirrored, and their target says `invalid`. Targets are only
ever copied pixel by pixel (nearest neighbour), so bit patterns never mix.
"""

import math
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from steel.images.strip import is_black

_BLACK_TRIES = 8
_BLACK_STRIDE = 4  # the share of black is measured on every fourth pixel each way


@dataclass(frozen=True)
class Window:
    """A crop's place in the image: its top-left pixel (may lie outside) and a pixel of the image inside the crop."""

    top: int
    left: int
    anchor: tuple[int, int]
    """(row, column) in the image: the focused pixel, or the crop's centre."""
    focused: bool


@dataclass(frozen=True)
class Distortion:
    """A small affine change about the anchor of a window; the anchor moves by a whole-pixel shift and nothing else."""

    rotation: float
    """Radians."""
    shear: float
    """Tangent of the angle."""
    scale: float
    shift: tuple[int, int]
    """Rows and columns."""


def target_dtype(num_classes: int) -> np.dtype:
    """Of training targets, which have a bit for each class and one for pixels without a truth: uint8 or int32."""
    return np.dtype(np.uint8 if num_classes <= 7 else np.int32)


def to_target(bitmask: np.ndarray, num_classes: int, ignore_bit: int | None) -> np.ndarray:
    """A stored bitmask as a training target: bits 0..C-1 are the classes, bit C marks pixels without a truth.

    Args:
        bitmask: (H, W) uint8 or uint16.
        num_classes: C, at most 16.
        ignore_bit: the bitmask's bit for ignored pixels; None when the set has none.

    Returns:
        (H, W) uint8 for up to 7 classes, else int32. Shares memory with `bitmask` where nothing changes.
    """
    kind = target_dtype(num_classes)
    if ignore_bit is None or ignore_bit == num_classes:
        return bitmask.astype(kind, copy=False)
    wide = bitmask.astype(np.int32)
    classes = wide & ((1 << num_classes) - 1)
    return (classes | ((wide >> ignore_bit & 1) << num_classes)).astype(kind)


def place_window(
    rng: Random, image: np.ndarray, target: np.ndarray, size: tuple[int, int], *, target_class: int, max_black: float
) -> Window:
    """Choose a crop at random.

    Args:
        rng: source of randomness.
        image: (H, W) or (H, W, 3) uint8.
        target: (H, W), see `to_target`.
        size: height and width of the crop.
        target_class: the crop must hold a pixel of this class (1-based) if the image has one; 0 asks for nothing.
        max_black: crops with a larger share of black pixels are drawn again, a few times; then the least black is kept.
    """
    counts = _class_rows(target, target_class) if target_class else None
    focused = counts is not None and counts[-1] > 0
    best, best_share = None, math.inf
    for _ in range(_BLACK_TRIES):
        pixel = _pick_pixel(rng, target, target_class, counts) if focused and counts is not None else None
        top = _place_side(rng, image.shape[0], size[0], pixel and pixel[0])
        left = _place_side(rng, image.shape[1], size[1], pixel and pixel[1])
        share = _black_share(image, top, left, size) if max_black < 1 else 0.0
        if share < best_share:
            best = Window(top, left, pixel or _centre(top, left, size, image.shape), focused)
            best_share = share
        if share <= max_black:
            break
    assert best is not None
    return best


def pick_pixel(rng: Random, target: np.ndarray, class_id: int) -> tuple[int, int] | None:
    """A pixel (row, column) of a class (1-based), each as likely; None where there is none."""
    counts = _class_rows(target, class_id)
    return _pick_pixel(rng, target, class_id, counts) if counts[-1] else None


def draw_distortion(rng: Random, strength: float, window: Window, size: tuple[int, int]) -> Distortion:
    """Up to 5 degrees of rotation and of shear, 10 % of scale and 5 % of shift, each times `strength`.

    The anchor of a focused window stays inside the crop.
    """
    shift = [round(rng.uniform(-0.05, 0.05) * strength * side) for side in size]
    if window.focused:
        inside = (window.anchor[0] - window.top, window.anchor[1] - window.left)
        shift = [max(-at, min(side - 1 - at, s)) for at, side, s in zip(inside, size, shift, strict=True)]
    return Distortion(
        rotation=math.radians(rng.uniform(-5, 5) * strength),
        shear=math.tan(math.radians(rng.uniform(-5, 5) * strength)),
        scale=(1 + 0.1 * strength) ** rng.uniform(-1, 1),
        shift=(shift[0], shift[1]),
    )


def cut(
    image: np.ndarray, target: np.ndarray, window: Window, size: tuple[int, int], invalid: int
) -> tuple[np.ndarray, np.ndarray]:
    """The crop (h, w[, 3]) and its target (h, w), views where the window lies inside the image.

    Args:
        image: (H, W[, 3]) uint8.
        target: (H, W).
        window: where.
        size: h, w.
        invalid: target value of the mirrored pixels beyond the image.
    """
    sides = [(window.top, size[0], image.shape[0]), (window.left, size[1], image.shape[1])]
    (top, bottom), (left, right) = [(max(start, 0), min(start + length, whole)) for start, length, whole in sides]
    inside = np.s_[top:bottom, left:right]
    if bottom - top == size[0] and right - left == size[1]:
        return image[inside], target[inside]
    above, before = top - window.top, left - window.left
    border = (above, size[0] - above - (bottom - top), before, size[1] - before - (right - left))
    return (
        cv2.copyMakeBorder(image[inside], *border, cv2.BORDER_REFLECT_101),
        cv2.copyMakeBorder(target[inside], *border, cv2.BORDER_CONSTANT, value=invalid),
    )


def cut_distorted(
    image: np.ndarray,
    target: np.ndarray,
    window: Window,
    distortion: Distortion,
    size: tuple[int, int],
    invalid: int,
) -> tuple[np.ndarray, np.ndarray]:
    """As `cut`, with an affine distortion in the same resampling: real pixels from around the window fill its edges."""
    turn, scale = distortion.rotation, distortion.scale
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    inverse = np.linalg.inv(scale * rotate @ np.array([[1.0, distortion.shear], [0.0, 1.0]]))  # on (x, y)
    source = np.array([window.anchor[1], window.anchor[0]], float)
    place = source - (window.left, window.top) + (distortion.shift[1], distortion.shift[0])
    matrix = np.column_stack([inverse, source - inverse @ place])
    width_height = (size[1], size[0])
    how = cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        _as_bytes(target),
        matrix,
        width_height,
        flags=how | cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_as_bytes(np.array(invalid, target.dtype)).ravel().tolist(),
    )
    return (
        cv2.warpAffine(image, matrix, width_height, flags=how | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101),
        np.ascontiguousarray(warped).view(target.dtype).reshape(size),
    )


def _as_bytes(target: np.ndarray) -> np.ndarray:
    """As channels of uint8: OpenCV warps int32 in another way, which is not for images of 32,767 pixels a side."""
    return np.ascontiguousarray(target)[..., None].view(np.uint8)


def draw_size(rng: Random, size: tuple[int, int], zoom: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the part of an image that a crop of `size` shows, at a scale between the two of `zoom`.

    Scales and their inverses are as likely. Draws nothing where it is always the same.
    """
    low, high = zoom
    scale = low if low == high else low * (high / low) ** rng.random()
    return max(1, round(size[0] / scale)), max(1, round(size[1] / scale))


def scale_to(image: np.ndarray, target: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image and its target at another size (h, w): the image by areas where it shrinks, else between pixels."""
    if image.shape[:2] == size:
        return image, target
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    width_height = size[1], size[0]
    return (
        cv2.resize(image, width_height, interpolation=how),
        cv2.resize(target, width_height, interpolation=cv2.INTER_NEAREST_EXACT),
    )


def _class_rows(target: np.ndarray, target_class: int) -> np.ndarray:
    """Cumulative count (H,) of the pixels of a class over the rows."""
    bit = 1 << (target_class - 1)
    pixels = target & target.dtype.type(bit)
    if pixels.dtype == np.uint8:
        sums = cv2.reduce(pixels, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0] // bit
    else:
        sums = np.count_nonzero(pixels, axis=1)
    return np.cumsum(sums)


def _pick_pixel(rng: Random, target: np.ndarray, target_class: int, counts: np.ndarray) -> tuple[int, int]:
    """A pixel (row, column) of the class, each as likely."""
    nth = rng.randrange(int(counts[-1]))
    row = int(np.searchsorted(counts, nth, side="right"))
    columns = np.flatnonzero(target[row] & target.dtype.type(1 << (target_class - 1)))
    return row, int(columns[nth - (int(counts[row - 1]) if row else 0)])


def _place_side(rng: Random, whole: int, crop: int, pixel: int | None) -> int:
    """Where the crop starts along one side: anywhere inside the image (or around a smaller one), over the pixel."""
    low, high = min(0, whole - crop), max(0, whole - crop)
    if pixel is not None:
        low, high = max(low, pixel - crop + 1), min(high, pixel)
    return rng.randint(low, high)


def _centre(top: int, left: int, size: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    return min(top + size[0] // 2, shape[0] - 1), min(left + size[1] // 2, shape[1] - 1)


def _black_share(image: np.ndarray, top: int, left: int, size: tuple[int, int]) -> float:
    """Share of black among the image's pixels in the window; in colour, green stands for all."""
    rows = slice(max(top, 0), top + size[0], _BLACK_STRIDE)
    columns = slice(max(left, 0), left + size[1], _BLACK_STRIDE)
    sample = image[rows, columns] if image.ndim == 2 else image[rows, columns, 1]
    return np.count_nonzero(is_black(sample)) / sample.size
