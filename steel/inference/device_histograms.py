"""Histograms of quantised probabilities, made where the probabilities are: 8 KiB per image travel, not the maps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steel.loading.crop import target_dtype, to_target
from steel.metrics.counts import NUM_BINS

_SPREAD = 64
"""Copies of each bin, which neighbouring pixels take in turn: on a GPU additions to one place wait for each other."""


def counting_targets(
    bitmasks: Sequence[np.ndarray], shape: tuple[int, int, int], num_classes: int, ignore_bit: int | None
) -> Tensor:
    """The truth of a padded batch: bits 0..C-1 = classes, bit C = not counted, as padding and ignored pixels are.

    Args:
        bitmasks: (h, w) of each image, no larger than the batch's.
        shape: B, H and W of the batch; places without a bitmask count for nothing.
        num_classes: C.
        ignore_bit: the bitmasks' bit of ignored pixels, if any.

    Returns:
        (B, H, W) uint8, or int32 for more than 7 classes.
    """
    targets = torch.from_numpy(np.full(shape, 1 << num_classes, target_dtype(num_classes)))
    for target, bitmask in zip(targets.numpy(), bitmasks, strict=False):
        target[: bitmask.shape[0], : bitmask.shape[1]] = to_target(bitmask, num_classes, ignore_bit)
    return targets


def histograms_on_device(mask_probs: Tensor, targets: Tensor) -> Tensor:
    """As `steel.metrics.counts.histograms`, of a batch and without a wait for the device.

    Args:
        mask_probs: (B, C, H, W) uint8.
        targets: (B, H, W) on the same device, see `counting_targets`.

    Returns:
        (B, C, 2, 256) int32: number of counted pixels by [image, class, outside / inside, probability].
    """
    num, num_classes = mask_probs.shape[:2]
    targets = targets.flatten(1)
    counted = ((targets >> num_classes) & 1 == 0).int()
    copies = 2 * NUM_BINS * (torch.arange(targets.shape[1], device=targets.device) % _SPREAD)
    found = []
    for k in range(num_classes):  # one at a time: a place takes 8 bytes per pixel
        inside = ((targets >> k) & 1).long()
        places = mask_probs[:, k].flatten(1).long() + NUM_BINS * inside + copies
        counts = torch.zeros(num, _SPREAD * 2 * NUM_BINS, dtype=torch.int32, device=targets.device)
        counts.scatter_add_(1, places, counted)
        found.append(counts.view(num, _SPREAD, 2, NUM_BINS).sum(dim=1, dtype=torch.int32))
    return torch.stack(found, dim=1)
