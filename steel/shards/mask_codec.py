"""How masks are stored in a tar: our own coding, written and read, and those of tars that others made, read alone."""

from functools import lru_cache

import numpy as np

from steel.images.bitmask import bitmask_dtype, pack_masks
from steel.images.decode import decode_labels
from steel.images.png import encode_png
from steel.shards.format import Manifest


def encode_mask(bitmask: np.ndarray) -> bytes:
    """A bitmask (H, W) of uint8 or uint16 as a gray PNG of 8 or 16 bits."""
    if not bitmask.any():
        return _encode_clean_mask(*bitmask.shape, bitmask.itemsize)
    return encode_png(bitmask)


@lru_cache(maxsize=64)
def _encode_clean_mask(height: int, width: int, itemsize: int) -> bytes:
    return encode_png(np.zeros((height, width), f"u{itemsize}"))


def decode_stored_mask(manifest: Manifest, data: bytes, height: int, width: int) -> np.ndarray:
    """The bitmask (H, W) of a sample, as the set of `manifest` codes it; all zero when `data` is empty (none stored).

    `bitmask` is our own coding. Tars of others hold `labels` (0 background, k = class k), `binary` (0, anything else)
    or `planes` (one channel per class).

    Raises:
        ValueError: unreadable, of another size, or with values beyond the classes; bits beyond them stay, which whoever
            takes others' tars in refuses.
    """
    num_classes = manifest.num_classes
    kind = bitmask_dtype(num_classes + (manifest.ignore_bit is not None))
    if not data:
        return np.zeros((height, width), kind)
    pixels = decode_labels(data)
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"the mask is {pixels.shape[0]}x{pixels.shape[1]}, the image {height}x{width}")
    if manifest.mask_coding == "planes":
        planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if planes.shape[2] != num_classes:
            raise ValueError(f"the mask has {planes.shape[2]} channels for {num_classes} classes")
        return pack_masks(planes.transpose(2, 0, 1) != 0).astype(kind, copy=False)
    if pixels.ndim != 2:
        raise ValueError("the mask has more than one channel")
    if manifest.mask_coding == "bitmask":
        return pixels
    if manifest.mask_coding == "binary":
        return (pixels != 0).astype(kind)
    bits = np.zeros(1 << (8 * pixels.itemsize), np.int32)
    bits[1 : num_classes + 1] = 1 << np.arange(num_classes)
    bits[num_classes + 1 :] = -1
    if manifest.ignore_bit is not None and manifest.ignore_value is not None and manifest.ignore_value < len(bits):
        bits[manifest.ignore_value] = 1 << manifest.ignore_bit
    bitmask = bits[pixels]
    if bitmask.min() < 0:
        raise ValueError(f"the mask holds the value {pixels[bitmask < 0][0]}, beyond {num_classes} classes")
    return bitmask.astype(kind)
