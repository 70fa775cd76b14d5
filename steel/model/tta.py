"""Test-time augmentation by flips, and the one rounding that turns probabilities into integers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steel.errors import InputError
from steel.model.network import Outputs

VIEWS: dict[str, tuple[int, ...]] = {"hflip": (-1,), "vflip": (-2,), "hvflip": (-2, -1)}
"""The axes that each view flips; the plain view is always there beside them."""


def parse_tta(text: str) -> tuple[str, ...]:
    """`hflip,vflip` -> ("hflip", "vflip"); `none` or nothing -> ().

    Raises:
        InputError: an unknown view, or one named twice.
    """
    views = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if views == ("none",) else check_tta(views)


def check_tta(views: Sequence[str]) -> tuple[str, ...]:
    """`views` as a tuple.

    Raises:
        InputError: an unknown view, or one named twice.
    """
    if not set(views) <= set(VIEWS) or len(set(views)) < len(views):
        known = ", ".join(VIEWS)
        raise InputError(f"tta: {','.join(views)} is neither none nor some of {known}, each at most once")
    return tuple(views)


def predict_views(model: Callable[[Tensor], Outputs], images: Tensor, views: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Probabilities of normalised images (n, c, H, W), averaged over the plain view and `views`.

    Returns:
        mask_probs (n, C, H, W) and label_probs (n, 1 + C), both float32 and in the images' orientation.
    """
    flips: list[tuple[int, ...]] = [(), *(VIEWS[view] for view in views)]
    mask_probs, label_probs = _view_probs(model, images, flips[0])
    for axes in flips[1:]:
        masks, labels = _view_probs(model, images, axes)
        mask_probs += masks
        label_probs += labels
    return mask_probs / len(flips), label_probs / len(flips)


def _view_probs(model: Callable[[Tensor], Outputs], images: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    outputs = model(images.flip(axes) if axes else images)
    masks = outputs.mask_logits.flip(axes) if axes else outputs.mask_logits
    return torch.sigmoid(masks.float()), torch.sigmoid(outputs.label_logits.float())


def quantise(probs: Tensor) -> Tensor:
    """Probabilities in [0, 1] -> uint8, to the nearest of 255 steps; thresholds are compared with these integers."""
    return probs.mul(255).round_().to(torch.uint8)
