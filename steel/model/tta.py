"""Test-time augmentation by flips, and the one rounding that turns probabilities into integers."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from steel.model.heads import CLASSIFICATION, SEGMENTATION, Features
from steel.model.network import Outputs

Axes = tuple[int, ...]
"""To flip; none for the plain view."""


def view_probs(
    model: Callable[[Tensor], Outputs], images: Tensor, flips: Sequence[Axes]
) -> list[tuple[Tensor, Tensor]]:
    """Probabilities of views of normalised images (n, c, H, W), whose sizes are whole strides, in one forward pass.

    Images are padded first and flipped then, everywhere: a view flipped first would be padded at another edge and see
    other pixels there, and in a batch of images of several sizes there is no other order.

    Args:
        model: logits of images of whole strides, such as `UnifiedModel.forward_padded`.
        images: as the plain view has them.
        flips: the views.

    Returns:
        Of each view mask_probs (n, C, H, W) and label_probs (n, 1 + C), both float32 and in the images' orientation;
        label_probs of an image are NaN where any of its logits is not finite.
    """
    outputs = model(flip_views(images, flips))
    return probs_of_views(outputs[SEGMENTATION], outputs[CLASSIFICATION], flips)


def flip_views(images: Tensor, flips: Sequence[Axes]) -> Tensor:
    """Views of images (n, c, H, W), one after another along the batch: (views * n, c, H, W)."""
    views = [images.flip(axes) if axes else images for axes in flips]
    return views[0] if len(views) == 1 else torch.cat(views)


def probs_of_views(masks: Tensor, labels: Tensor, flips: Sequence[Axes]) -> list[tuple[Tensor, Tensor]]:
    """What `view_probs` gives, from logits (views * n, C, H, W) and (views * n, 1 + C)."""
    parts = zip(flips, masks.chunk(len(flips)), labels.chunk(len(flips)), strict=True)
    return [
        (torch.sigmoid((mask.flip(axes) if axes else mask).float()), probs_of_labels(label, mask))
        for axes, mask, label in parts
    ]


def probs_of_labels(labels: Tensor, *others: Tensor) -> Tensor:
    """Probabilities of label logits (n, K), float32; of an image NaN where any of them or of its `others`, (n, ...), is
    not finite.

    A sigmoid makes a plain 0 of what overflowed, and rounding a 0 of a NaN. Labels are few: what they say of this goes
    through all averages, and costs nothing.
    """
    # A sum is not finite where a summand is not, and takes a fortieth of the time of a look at each.
    sums = [logits.sum(dim=tuple(range(1, logits.ndim)), dtype=torch.float32) for logits in (labels, *others)]
    is_finite = torch.stack(sums).isfinite().all(dim=0)
    return torch.sigmoid(labels.float()).masked_fill(~is_finite[:, None], torch.nan)


def view_parts(segment: Callable[[Tensor], tuple[Tensor, Features]], tile: Tensor, axes: Axes) -> tuple[Tensor, Tensor]:
    """As `view_probs` of a tile of an image, of which the labels cannot be told: what they are told from instead.

    Args:
        segment: such as `UnifiedModel.segment`.
        tile: (n, c, h, w), normalised, of whole strides.
        axes: to flip.

    Returns:
        The masks' logits (n, C, h, w) float32, and the encoder's last feature (n, F, h', w'), in the tile's
        orientation.
    """
    masks, features = segment(tile.flip(axes) if axes else tile)
    encoded = features.encoded
    if axes:
        masks, encoded = masks.flip(axes), encoded.flip(axes)
    return masks.float(), encoded


def average_probs(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of what members and views say, see `view_probs`, rounded once.

    Args:
        parts: added up in their order, so no more than two of them need to be there at once.

    Returns:
        mask_probs (n, C, H, W) and label_probs (n, 1 + C), both uint8, see `quantise`; and (n,) bool, where False
        neither says anything, see `probs_of_labels`.
    """
    mask_probs, label_probs = _average(parts)
    return quantise(mask_probs), *quantise_labels(label_probs)


def average(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """As `average_probs`, of labels alone."""
    (label_probs,) = _average((part,) for part in parts)
    return quantise_labels(label_probs)


def _average(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    parts = iter(parts)
    totals, count = next(parts), 1
    for part in parts:
        pairs = zip(totals, part, strict=True)
        # The first of them are the caller's; their sum is not, and new memory for each would cost as much as adding.
        totals = tuple(total + values if count == 1 else total.add_(values) for total, values in pairs)
        count += 1
    return totals if count == 1 else tuple(total.div_(count) for total in totals)


def quantise_labels(label_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Of (n, K), which may be NaN, as uint8, and which images they say something of: (n,) bool."""
    return quantise(label_probs), label_probs.isfinite().all(dim=1)


def quantise(probs: Tensor) -> Tensor:
    """Probabilities in [0, 1] -> uint8, to the nearest of 255 steps; thresholds are compared with these integers.

    Of NaN there is no such integer, and what comes out is any: see `quantise_labels`."""
    return probs.mul(255).round_().to(torch.uint8)
