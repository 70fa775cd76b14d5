"""Masks as bits: one unsigned integer a pixel, bit k for class k + 1."""

import cv2
import numpy as np


def bitmask_dtype(num_bits: int) -> np.dtype:
    """What holds so many bits, classes and ignored pixels together: uint8 up to 8, else uint16."""
    assert 0 < num_bits <= 16, num_bits
    return np.dtype(np.uint8 if num_bits <= 8 else np.uint16)


def pack_masks(masks: np.ndarray) -> np.ndarray:
    """Masks (C, H, W) of bool as one bitmask (H, W): bit k = class k + 1; uint8 up to 8 classes, else uint16."""
    kind = bitmask_dtype(len(masks)).type
    bitmask = np.zeros(masks.shape[1:], kind)
    for k, mask in enumerate(masks):
        if mask.any():  # most are empty
            bitmask |= (mask != 0).astype(kind) << kind(k)
    return bitmask


def unpack_masks(bitmask: np.ndarray, num_classes: int) -> np.ndarray:
    """The masks (num_classes, H, W) of bool in a bitmask (H, W) of unsigned integers; other bits are left out."""
    bits = np.left_shift(1, np.arange(num_classes)).astype(bitmask.dtype)
    return (bitmask[None] & bits[:, None, None]) != 0


def mask_areas(bitmask: np.ndarray, num_classes: int) -> list[int]:
    """Pixels of each class in a bitmask (H, W)."""
    present = int(np.bitwise_or.reduce(bitmask, axis=None))
    single = present & (present - 1) == 0  # then there is no need to tell the classes apart
    return [
        cv2.countNonZero(bitmask if single else bitmask & bitmask.dtype.type(1 << k)) if present >> k & 1 else 0
        for k in range(num_classes)
    ]
