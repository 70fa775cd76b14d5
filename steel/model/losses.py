"""Losses, each one number per (image, class) over the valid pixels, in float32 even under autocast.

`LOSS_TERMS` has them by name, each with the head of the network whose output it judges. What a configuration weighs by
those names is added up head by head (`head_losses`).

Every segmentation loss takes `logits` (n, C, h, w) of any float type, `masks` (n, C, h, w) of 0 and 1, and `valid`
(n, 1, h, w) of 0 and 1, and returns (n, C) float32, or float64 where the logits are. Pixels that are not valid
contribute nothing: padding an image with them leaves its losses as they were, and without any valid pixel a loss is 0.
No function waits for the device.

A class that is absent from an image is judged as the Kaggle metric judges it: an empty prediction is perfect (loss 0)
and whatever is predicted costs. What that means for each loss stands at the function.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from steel.config import LossConfig
from steel.errors import InputError
from steel.model.heads import CLASSIFICATION, SEGMENTATION

_TINY = 1e-12
SMOOTH = 1.0
"""Pixels added above and below in the overlap losses; an absent class gets its slope from it."""


def binary_cross_entropy(logits: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy over the valid pixels.

    Absent class: 0 once every probability is 0; a falsely predicted pixel costs its share of the image.
    """
    return _mean(_pixel_cross_entropy(logits, masks), valid)


def focal(logits: Tensor, masks: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Mean over the valid pixels of cross-entropy times (1 - probability of the truth) ** gamma (Lin et al. 2017).

    Absent class: as in cross-entropy, with faint false predictions weighing less.
    """
    cross_entropy = _pixel_cross_entropy(logits, masks)
    # exp(-cross entropy) is the probability of the truth; 1 minus it, kept exact where that is close to 1, and never
    # quite 0, where a power below 1 has no slope.
    wrongness = (-torch.expm1(-cross_entropy)).clamp(min=_TINY)
    return _mean(wrongness.pow(gamma) * cross_entropy, valid)


def soft_dice(logits: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """1 - (2 * overlap + 1) / (predicted + true + 1), in pixels weighted by probability.

    Absent class: 1 - 1 / (predicted + 1), which is 0 when nothing is predicted, 1/2 for a single pixel and soon close
    to 1: nearly the metric's all or nothing, but with a slope.
    """
    overlap, predicted, true = _areas(logits, masks, valid)
    return 1 - (2 * overlap + SMOOTH) / (predicted + true + SMOOTH)


def batch_dice(logits: Tensor, masks: Tensor, valid: Tensor, absent: float) -> Tensor:
    """`soft_dice` of all images of a micro-batch taken as one, where a small defect counts by its pixels; each image
    has the same.

    Absent class: of no image of the micro-batch; as `soft_dice`, times `absent`.
    """
    overlap, predicted, true = (area.sum(dim=0, keepdim=True) for area in _areas(logits, masks, valid))
    loss = 1 - (2 * overlap + SMOOTH) / (predicted + true + SMOOTH)
    return (loss * torch.where(true > 0, 1.0, absent)).expand(len(logits), -1)


def tversky(logits: Tensor, masks: Tensor, valid: Tensor, alpha: float, power: float = 1.0) -> Tensor:
    """wrong / (overlap + wrong + 1/2), wrong = alpha * false positives + (1 - alpha) * false negatives; to a power.

    That is 1 less the index of Salehi et al. 2017; with `alpha` 0.5 and `power` 1 it is `soft_dice`, with `power` 3/4
    the focal Tversky loss of Abraham & Khan 2019. Absent class: (1 - 1 / (2 * alpha * predicted + 1)) ** power.
    """
    overlap, predicted, true = _areas(logits, masks, valid)
    wrong = alpha * (predicted - overlap) + (1 - alpha) * (true - overlap)
    loss = wrong / (overlap + wrong + SMOOTH / 2)
    if power == 1:
        return loss
    # A power below 1 has no slope at 0, and rounding may leave a hair below it.
    return torch.where(loss > _TINY, loss.clamp(min=_TINY).pow(power), 0.0)


def lovasz_hinge(logits: Tensor, masks: Tensor, valid: Tensor, pairs: Tensor | None = None) -> Tensor:
    """The Lovász extension of the Jaccard loss at the hinge errors (Berman et al. 2018), by one sort for all.

    Absent class: the hinge error of the one worst pixel, max(0, 1 + largest logit): 0 once every logit is below -1;
    one falsely predicted pixel costs everything, as in the metric. That needs no sort.

    Args:
        logits: as everywhere here.
        masks: likewise.
        valid: likewise.
        pairs: (K,) int64 on the same device, different numbers `image * C + class`: the pairs that are sorted, all that
            are present among them; None sorts all. Loss and gradients are the same.
    """
    true = (masks.float() * valid.float()).flatten(2)
    errors = 1 - _precise(logits).flatten(2) * (2 * true - 1)
    # Invalid pixels sort last and fall to the hinge.
    errors = errors.masked_fill(valid.flatten(2) == 0, -torch.inf)
    if pairs is None:
        return _lovasz_by_sort(errors, true)
    # The first of several largest, as a stable sort has it.
    worst = errors.gather(-1, errors.argmax(dim=-1, keepdim=True))
    of_pairs = _lovasz_by_sort(*(values.flatten(0, 1).index_select(0, pairs) for values in (errors, true)))
    return F.relu(worst).flatten().index_copy(0, pairs, of_pairs).view(errors.shape[:2])


def _lovasz_by_sort(errors: Tensor, true: Tensor) -> Tensor:
    """Errors and truth (..., pixels) -> (...)."""
    # A stable sort, or equal errors would get the gradients of one another from run to run.
    errors, order = errors.sort(dim=-1, descending=True, stable=True)
    return (F.relu(errors) * _jaccard_steps(true.gather(-1, order))).sum(dim=-1)


def _jaccard_steps(sorted_true: Tensor) -> Tensor:
    """By how much each further wrong pixel, worst first, raises the Jaccard loss: (..., pixels) -> the same.

    Written out for either kind of pixel: the usual difference of neighbouring losses cancels away most of float32's
    digits where an image has half a million pixels.
    """
    total = sorted_true.sum(dim=-1, keepdim=True)
    intersection = total - sorted_true.cumsum(dim=-1)
    union = total + (1 - sorted_true).cumsum(dim=-1)
    steps = torch.where(sorted_true > 0, 1 / union, intersection / (union * (union - 1).clamp(min=1)))
    steps[..., :1] += total == 0  # absent class: the first wrong pixel makes all the loss
    return steps


def boundary(logits: Tensor, masks: Tensor, valid: Tensor, width: int) -> Tensor:
    """Mean cross-entropy over the valid pixels near the class's true border: those with both a pixel of the class and
    one that is not of it at most `width` pixels away in rows and columns.

    Cross-entropy that counts the pixels at borders for more is U-Net's (Ronneberger et al. 2015); the band of a width
    is that of Boundary IoU (Cheng et al. 2021), and with it a small defect counts as much as a large one. Pixels are
    pooled of the truth alone, so that every pixel of the band has its slope and nothing goes back through a pooling. A
    loss of the predicted border (Bokhovkin & Burnaev 2019) pools the prediction: then only the largest pixel of each
    window has a slope, none where a prediction is flat, and the sums of its backward pass depend on their order on a
    GPU. Losses of the distance to the border (Kervadec et al. 2019) need transforms on the host.

    A pixel that is not valid is neither of the class nor beside it: where truth ends, no border is.

    Absent class, or one that is everywhere: it has no border, and all valid pixels count, as in `binary_cross_entropy`.
    """
    true = masks.float()
    near = _dilated(true * valid.float(), width) * _dilated((1 - true) * valid.float(), width) * valid.float()
    has_border = near.amax(dim=(2, 3), keepdim=True) > 0
    return _mean(_pixel_cross_entropy(logits, masks), torch.where(has_border, near, valid.float()))


def _dilated(planes: Tensor, width: int) -> Tensor:
    """(n, C, h, w) without a gradient -> the same, each pixel the largest of those at most `width` away.

    Line by line, and then column by column: in one dimension a CPU has a fast kernel.
    """
    lines = F.max_pool1d(planes.flatten(0, 1), 2 * width + 1, stride=1, padding=width)
    return F.max_pool1d(lines.transpose(1, 2), 2 * width + 1, stride=1, padding=width).transpose(1, 2).view_as(planes)


def classification_loss(label_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label, (n, 1 + C) logits and 0/1 labels -> (n, 1 + C) float32."""
    return _pixel_cross_entropy(label_logits, labels)


def labels_from_targets(masks: Tensor, valid: Tensor) -> Tensor:
    """Which labels hold in what is left of an image after cropping: (n, 1 + C) float32, `any` first, then classes."""
    present = (masks * valid).flatten(2).amax(dim=-1).float()
    return torch.cat([present.amax(dim=1, keepdim=True), present], dim=1)


LossFunction = Callable[[Tensor, Tensor, Tensor, LossConfig], Tensor]
"""From a head's logits, masks (n, C, h, w), valid pixels (n, 1, h, w) and the configuration to (n, K) float32: one
number per image and per class, label or whatever the head's output is of."""
PairFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From a head's logits, masks, valid pixels and the pairs (K,) int64 of an image and a class, `image * C + class`,
among which are all that are present, to the same numbers."""


@dataclass(frozen=True)
class LossTerm:
    """A term of the loss."""

    meaning: str
    """In a few words, for `--help`."""
    function: LossFunction
    head: str = SEGMENTATION
    """Whose output it judges; a name of `steel.model.heads.HEADS`, or the segmentation's."""
    is_overlap: bool = False
    """Whether `LossConfig.absent` weighs it where a class is absent: (n, C) values, one per class."""
    of_pairs: PairFunction | None = None
    """The same loss at less cost where it is known which classes are present; None where that is of no use."""
    settings: tuple[str, ...] = ()
    """Fields of `LossConfig` that are of this term, and perhaps of others: without a weight for any of them, a value
    other than the default is refused."""


def _classification(label_logits: Tensor, masks: Tensor, valid: Tensor, _: LossConfig) -> Tensor:
    """Labels come from the masks as cropped and augmented, never from the whole image."""
    losses = classification_loss(label_logits, labels_from_targets(masks, valid))
    # An image without one valid pixel says nothing about its labels either.
    return losses * valid.flatten(1).amax(1, keepdim=True)


LOSS_TERMS: dict[str, LossTerm] = {
    "bce": LossTerm(
        "cross-entropy of each pixel and class",
        lambda logits, masks, valid, _: binary_cross_entropy(logits, masks, valid),
    ),
    "focal": LossTerm(
        "focal loss: cross-entropy that cares less for pixels that are nearly right",
        lambda logits, masks, valid, config: focal(logits, masks, valid, config.focal_gamma),
        settings=("focal_gamma",),
    ),
    "dice": LossTerm(
        "1 less the soft Dice of each class",
        lambda logits, masks, valid, _: soft_dice(logits, masks, valid),
        is_overlap=True,
    ),
    "batch_dice": LossTerm(
        "Dice of each class over the micro-batch instead of each image",
        lambda logits, masks, valid, config: batch_dice(logits, masks, valid, config.absent),
    ),
    "tversky": LossTerm(
        "Tversky loss: Dice that weighs false positives and negatives apart; focal by its power",
        lambda logits, masks, valid, config: tversky(logits, masks, valid, config.tversky_alpha, config.tversky_power),
        is_overlap=True,
        settings=("tversky_alpha", "tversky_power"),
    ),
    "lovasz": LossTerm(
        "Lovász hinge: stands in for the Jaccard index",
        lambda logits, masks, valid, _: lovasz_hinge(logits, masks, valid),
        is_overlap=True,
        of_pairs=lovasz_hinge,
    ),
    "boundary": LossTerm(
        "cross-entropy of the pixels near each class's true border",
        lambda logits, masks, valid, config: boundary(logits, masks, valid, config.boundary_width),
        is_overlap=True,
        settings=("boundary_width",),
    ),
    "classification": LossTerm("the head's cross-entropy over `any` and each class", _classification, CLASSIFICATION),
}
"""Every loss term by name, in the order in which they are added up. A weight for each is an option,
`--phases.N.loss.NAME`."""


def check_terms(config: LossConfig, heads: Collection[str], where: str) -> None:
    """Raises InputError unless every weighted term exists and judges a head of the network, one judges the masks, and
    nothing is set of terms that have no weight.

    Args:
        config: the weights.
        heads: of the network, the segmentation's included.
        where: for the message, such as `phase crops`.
    """
    for name in config.weights:
        if name not in LOSS_TERMS:
            raise InputError(f"{where}: loss.{name} is unknown; there are {', '.join(LOSS_TERMS)}")
        if LOSS_TERMS[name].head not in heads:
            raise InputError(
                f"{where}: loss.{name} is of the head {LOSS_TERMS[name].head}, which the network lacks; "
                f"add it with --model.heads {LOSS_TERMS[name].head}"
            )
    if not any(LOSS_TERMS[name].head == SEGMENTATION for name in config.weights):
        raise InputError(f"{where}: loss: give at least one segmentation term a weight above 0")
    used = {setting for name in config.weights for setting in LOSS_TERMS[name].settings}
    for name, term in LOSS_TERMS.items():
        for setting in term.settings:
            value, default = (getattr(one, setting) for one in (config, LossConfig()))
            if setting not in used and value != default:
                raise InputError(
                    f"{where}: loss.{setting.replace('_', '-')} {value:g} has no effect while loss.{name} is 0; "
                    f"give loss.{name} a weight above 0, or leave it at {default:g}"
                )


def head_losses(
    outputs: Mapping[str, Tensor], masks: Tensor, valid: Tensor, config: LossConfig, pairs: Tensor | None = None
) -> dict[str, Tensor]:
    """What each head of the network loses, in the order of `outputs`, weighted as `config` says.

    Args:
        outputs: logits of each head by its name.
        masks: (n, C, h, w) of 0 and 1, as cropped and augmented.
        valid: (n, 1, h, w) of 0 and 1.
        config: the weights.
        pairs: see `PairFunction`; None when it is not known what is present.

    Returns:
        (n, K) float32 per head: (n, C) of the segmentation, (n, 1 + C) of the classification.
    """
    return {head: _head_loss(head, logits, masks, valid, config, pairs) for head, logits in outputs.items()}


def _head_loss(
    head: str, logits: Tensor, masks: Tensor, valid: Tensor, config: LossConfig, pairs: Tensor | None
) -> Tensor:
    of_head = {name: term for name, term in LOSS_TERMS.items() if term.head == head}
    weights = {name: config.weights.get(name, 0.0) for name in of_head}
    # Where nothing of a head counts its first term does, times 0: DDP waits for its gradient all the same.
    counted = [name for name, weight in weights.items() if weight] or list(weights)[:1]
    pixels: list[Tensor] = []
    overlaps: list[Tensor] = []
    for name in counted:
        term = of_head[name]
        if pairs is None or term.of_pairs is None:
            loss = term.function(logits, masks, valid, config)
        else:
            loss = term.of_pairs(logits, masks, valid, pairs)
        (overlaps if term.is_overlap else pixels).append(weights[name] * loss)
    if overlaps and config.absent != 1:
        present = (masks * valid).flatten(2).amax(dim=-1)
        overlaps = [overlap * (present + config.absent * (1 - present)) for overlap in overlaps]
    loss = torch.stack([*pixels, *overlaps]).sum(dim=0)
    return loss if head != SEGMENTATION else weigh_classes(loss, config)


def weigh_classes(loss: Tensor, config: LossConfig) -> Tensor:
    """The segmentation's (n, C) with the configuration's weight for each class."""
    if config.class_weights is None:
        return loss
    assert len(config.class_weights) == loss.shape[1], "one class weight a class"
    # Column by column: a tensor of the weights would have to be moved to the device.
    return torch.stack([weight * loss[:, k] for k, weight in enumerate(config.class_weights)], dim=1)


def _precise(logits: Tensor) -> Tensor:
    """In float32 at least: half precision is raised, float64 stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _pixel_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    logits = _precise(logits)
    return F.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="none")


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """(n, C, h, w) -> (n, C): the mean over valid pixels, 0 where there are none."""
    valid = valid.float()
    return (values * valid).sum(dim=(2, 3)) / valid.sum(dim=(2, 3)).clamp(min=1)


def _areas(logits: Tensor, masks: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap, predicted and true area in valid pixels, each (n, C) float32."""
    probs = torch.sigmoid(_precise(logits)) * valid.float()
    true = masks.float() * valid.float()
    return (probs * true).sum(dim=(2, 3)), probs.sum(dim=(2, 3)), true.sum(dim=(2, 3))
