"""Micro-batches of noise, laid out in memory as the loader's are: for measuring a step without data."""

import numpy as np
import torch

from steel.loading.crop import target_dtype
from steel.loading.train_loader import MicroBatch, present_pairs


def made_up_batch(
    channels: int, num_classes: int, num: int, crop: tuple[int, int], *, pin_memory: bool, index: int = 0
) -> MicroBatch:
    """Noise with the first class in the upper quarter of half of the images.

    Args:
        channels: of the images as they are stored.
        num_classes: of the data.
        num: of images.
        crop: their height and width.
        pin_memory: hand over pinned memory, as for a GPU.
        index: see `MicroBatch.index`.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num, *crop, channels), dtype=torch.uint8, generator=generator)
    bits = np.zeros((num, *crop), target_dtype(num_classes))
    bits[: (num + 1) // 2, : crop[0] // 4] = 1
    targets, pairs = torch.from_numpy(bits), torch.from_numpy(present_pairs(bits, num_classes))
    if pin_memory:
        pixels, targets, pairs = pixels.pin_memory(), targets.pin_memory(), pairs.pin_memory()
    return MicroBatch(pixels.permute(0, 3, 1, 2), targets, torch.arange(num), torch.arange(num), index, 0, pairs)
