"""The run-length functions of the public kernels of the Severstal competition, as a peer; written anew after the form
that most of them share: runs drawn one by one into a column-major array."""

import numpy as np

from bench.speed.strings import HEIGHT, WIDTH


def rle_to_mask(text: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Mask (H, W) uint8 of 0 and 1."""
    words = text.split()
    starts, lengths = (np.asarray(part, dtype=int) for part in (words[0::2], words[1::2]))
    starts -= 1
    mask = np.zeros(height * width, dtype=np.uint8)
    for start, end in zip(starts, starts + lengths, strict=True):
        mask[start:end] = 1
    return mask.reshape(height, width, order="F")


def mask_to_rle(mask: np.ndarray) -> str:
    """Run-length text of a mask (H, W) of 0 and 1."""
    pixels = np.concatenate([[0], mask.T.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(number) for number in runs)
