"""Copy-paste: a defect of one image, put onto the steel of another crop with the brightness of its new surroundings.

A rare class is seen on few surfaces; pasted, it is seen on all of them, and a network cannot tell it by its background
(Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", 2021).
"""

from random import Random
from typing import NamedTuple

import cv2
import numpy as np

from steel.images.strip import is_black
from steel.loading.crop import pick_pixel

_TRIES = 8
_MARGIN = 4
"""Pixels around a defect over which it fades into its new surroundings."""
_MOST_GAIN = 2.0
"""Surroundings more than so much brighter or darker than a defect's own are not imitated further."""


class Donor(NamedTuple):
    """An image with a defect."""

    image: np.ndarray
    """(H, W) or (H, W, 3) uint8."""
    target: np.ndarray
    """(H, W): bits 0..C-1 = classes, bit C = invalid."""
    class_id: int
    """Of the defect, from 1."""


class _Part(NamedTuple):
    """A defect with the steel around it, of one height and width."""

    image: np.ndarray
    target: np.ndarray
    defect: np.ndarray
    """(h, w) uint8 of 0 and 1."""
    around: np.ndarray
    """(h, w) uint8 of 0 and 1: the defect and its margin."""


def paste_defect(rng: Random, image: np.ndarray, target: np.ndarray, donor: Donor) -> tuple[np.ndarray, np.ndarray]:
    """A crop with one connected defect of the donor, perhaps turned over, anywhere on bare steel.

    Args:
        rng: source of randomness.
        image: (h, w) or (h, w, 3) uint8.
        target: (h, w): bits 0..C-1 = classes, bit C = invalid.
        donor: of as many channels.

    Returns:
        New arrays; or those given, where the donor has no such defect or the crop no room for it: only pixels of the
        strip that have a truth and show no defect are pasted over, and a defect that an edge cuts stays at that edge.
    """
    part = _pick_part(rng, donor, image.shape[:2])
    if part is None:
        return image, target
    ranges = [_starts(part.defect.max(axis=1 - axis), image.shape[axis]) for axis in (0, 1)]
    if not all(ranges):
        return image, target
    height, width = part.defect.shape
    for _ in range(_TRIES):
        top, left = (rng.choice(starts) for starts in ranges)
        place = np.s_[top : top + height, left : left + width]
        if _is_bare(image[place], target[place], part.around):
            image, target = image.copy(), target.copy()
            image[place], target[place] = _blend(image[place], target[place], part)
            break
    return image, target


def _pick_part(rng: Random, donor: Donor, room: tuple[int, ...]) -> _Part | None:
    """The defect around a random pixel of the donor's class; of one larger than the room, what lies around the pixel.

    None where there is no such pixel, or no bare steel around it.
    """
    pixel = pick_pixel(rng, donor.target, donor.class_id)
    if pixel is None:
        return None
    own = ((donor.target >> (donor.class_id - 1)) & 1).astype(np.uint8)
    window = tuple(
        slice(max(0, at - side + 1), min(whole, at + side))
        for at, side, whole in zip(pixel, room, own.shape, strict=True)
    )
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(own[window])
    label = labels[pixel[0] - window[0].start, pixel[1] - window[1].start]
    left, top, width, height, _ = boxes[label]
    rows = _within(top, height, pixel[0] - window[0].start, labels.shape[0], room[0])
    columns = _within(left, width, pixel[1] - window[1].start, labels.shape[1], room[1])
    flip = np.s_[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
    defect = (labels[rows, columns] == label).astype(np.uint8)[flip]
    side = 2 * _MARGIN + 1
    around = cv2.dilate(defect, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    shown, bits = donor.image[window][rows, columns][flip], donor.target[window][rows, columns][flip]
    part = _Part(shown, bits, defect, around)
    return part if _surroundings(part, shown, bits).any() else None


def _within(start: int, length: int, pixel: int, whole: int, room: int) -> slice:
    """Of one side: a defect with its margin, inside the image; about the pixel where that is more than the room."""
    first, last = max(0, start - _MARGIN), min(whole, start + length + _MARGIN)
    if last - first > room:
        first = min(max(first, pixel - room // 2), last - room)
        last = first + room
    return slice(first, last)


def _starts(occupied: np.ndarray, room: int) -> range:
    """Where a part may start along one side: where an edge cuts the defect, at that edge.

    Args:
        occupied: (n,) 1 where along the side the part has some of the defect; else its margin is there.
        room: length of the crop's side.
    """
    last = room - len(occupied)
    return range(last if occupied[-1] else 0, 1 if occupied[0] else last + 1)


def _is_bare(image: np.ndarray, target: np.ndarray, around: np.ndarray) -> bool:
    """Whether all that a defect with its margin would cover is steel without a defect, and known to be."""
    covered = around.astype(bool)
    return not target[covered].any() and not is_black(_gray(image)[covered]).any()


def _surroundings(part: _Part, image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(h, w) bool: the bare steel of `image` in the margin of a defect."""
    return (part.around > part.defect) & (target == 0) & ~is_black(_gray(image))


def _gray(image: np.ndarray) -> np.ndarray:
    """(h, w) of (h, w) or (h, w, 3); in colour, green stands for all."""
    return image if image.ndim == 2 else image[:, :, 1]


def _blend(image: np.ndarray, target: np.ndarray, part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """A defect in its new place: as bright as its surroundings are there, and fading into them over its margin."""
    here = image[_surroundings(part, image, target)].mean(axis=0)
    there = part.image[_surroundings(part, part.image, part.target)].mean(axis=0)
    gain = np.clip(here / np.maximum(there, 1), 1 / _MOST_GAIN, _MOST_GAIN).astype(np.float32)
    share = cv2.GaussianBlur(part.around.astype(np.float32), (0, 0), _MARGIN / 2, borderType=cv2.BORDER_CONSTANT)
    share = np.where(part.defect, 1, np.clip(2 * share - 1, 0, 1))
    share = share if image.ndim == 2 else share[:, :, None]
    mixed = image + share * (part.image * gain - image)
    return np.rint(mixed).clip(0, 255).astype(np.uint8), np.where(part.defect, part.target, target)
