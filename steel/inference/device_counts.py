"""Counts of pixels made where the probabilities are: some KiB per image travel, not the maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from steel.metrics.counts import NUM_BINS

_SPREAD = 64
"""Copies of each bin, which neighbouring pixels take in turn: on a GPU additions to one place wait for each other."""


def histograms_on_device(mask_probs: Tensor, targets: Tensor) -> Tensor:
    """As `steel.metrics.counts.histograms`, of a batch and without a wait for the device.

    Args:
        mask_probs: (B, C, H, W) uint8.
        targets: (B, H, W) on the same device, see `steel.loading.eval_loader.fill_targets`.

    Returns:
        (B, C, 2, 256) int32: number of counted pixels by [image, class, outside / inside, probability].
    """
    num, num_classes = mask_probs.shape[:2]
    targets = targets.flatten(1)
    counted = (targets >> num_classes & 1 == 0).int()
    found = []
    for k in range(num_classes):  # one at a time: a place takes 8 bytes per pixel
        inside = (targets >> k & 1).long()
        places = mask_probs[:, k].flatten(1).long() + NUM_BINS * inside
        found.append(_count(places, counted, 2 * NUM_BINS).view(num, 2, NUM_BINS))
    return torch.stack(found, dim=1)


def answers_on_device(mask_probs: Tensor, targets: Tensor, pixel_thresholds: Sequence[int]) -> Tensor:
    """How often each set of classes reaches its thresholds, by what is there, without a wait for the device.

    Args:
        mask_probs: (B, C, H, W) uint8.
        targets: (B, H, W) on the same device, see `steel.loading.eval_loader.fill_targets`.
        pixel_thresholds: C of a decision.

    Returns:
        (B, C + 2, 2**C) int32, of each image what `steel.metrics.confusion.answers_confusion` takes.
    """
    num_classes = mask_probs.shape[1]
    targets = targets.flatten(1)
    counted = (targets >> num_classes & 1 == 0).int()
    reached = torch.zeros_like(targets, dtype=torch.int64)
    for k, threshold in enumerate(pixel_thresholds):
        reached |= (mask_probs[:, k].flatten(1) >= threshold).long() << k
    classes = targets & ((1 << num_classes) - 1)
    there = [classes == 0, *(targets >> k & 1 == 1 for k in range(num_classes))]
    rows = [*(counted * each for each in there), counted]
    return torch.stack([_count(reached, row, 1 << num_classes) for row in rows], dim=1)


def _count(places: Tensor, counted: Tensor, num_places: int) -> Tensor:
    """(B, num_places) int32: how many of (B, n) pixels are at each place; int32 `counted` is 1 where one counts."""
    copies = num_places * (torch.arange(places.shape[1], device=places.device) % _SPREAD)
    counts = torch.zeros(len(places), _SPREAD * num_places, dtype=torch.int32, device=places.device)
    counts.scatter_add_(1, places + copies, counted)
    return counts.view(len(places), _SPREAD, num_places).sum(dim=1, dtype=torch.int32)
