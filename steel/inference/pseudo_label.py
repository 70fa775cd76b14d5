"""What a prediction is worth as a label: its masks where it is sure, and the pixels of which it is not. Without torch.

A network is wrong most often where its probability is near the threshold: along outlines, and in what looks half like a
defect. Training on its own guess there would only make it surer of its mistakes; such pixels are marked as ignored, so
that they teach nothing. So are the pixels of a class that the gate or an area rule has dropped: the segmentation says
that they are of the class, and the rule that they are not.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from steel.decision import Decision, apply_decision, kept, labels
from steel.errors import InputError

_ROUNDING = 1e-9
"""Limits that are whole numbers but for it are taken for them."""


@dataclass(frozen=True)
class UnsureBand:
    """Between which probabilities an answer is unsure, for a threshold of one half; it moves with the threshold.

    For another threshold t the scale is bent so that t stands at its middle: a probability p below t is at
    `p / t / 2`, one from t up at `1 - (1 - p) / (1 - t) / 2`. So the band of a tuned threshold holds that threshold,
    whatever it is, and leaves the same shares of what is below and above it for sure.

    By default that is 0.2 to 0.8, by reasoning, not by measurement: the band is to hold the outlines, which people draw
    a pixel or two apart, and the regions in doubt. A narrower one trusts the network more, a wider one leaves less to
    learn from.
    """

    low: float = 0.2
    """Above 0, one half at most."""
    high: float = 0.8
    """One half at least, 1 at most."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= 0.5 <= self.high <= 1:
            raise InputError(
                f"{self.low:g},{self.high:g}: give two probabilities around one half, as 0.2,0.8; the lower one above 0"
            )

    def __str__(self) -> str:
        """As an option has it."""
        return f"{self.low},{self.high}"

    def limits(self, threshold: int) -> tuple[int, int]:
        """The first quantised probability that is unsure and the first above it that is not; equal where none is.

        Args:
            threshold: quantised, 0 to 255.
        """
        first = math.ceil(2 * self.low * threshold - _ROUNDING)
        end = math.ceil(255 - 2 * (1 - self.high) * (255 - threshold) - _ROUNDING)
        return first, end

    def holds(self, probs: np.ndarray, threshold: int) -> np.ndarray:
        """Which quantised probabilities, uint8 of any shape, are unsure by a threshold: bool of that shape."""
        first, end = self.limits(threshold)
        return (probs >= first) & (probs < end)


class PseudoLabel(NamedTuple):
    """What an image teaches; no pixel is in a mask and ignored."""

    masks: np.ndarray
    """(C, H, W) bool."""
    ignored: np.ndarray
    """(H, W) bool."""


def pseudo_label(
    decision: Decision, mask_probs: np.ndarray, label_probs: np.ndarray, band: UnsureBand
) -> PseudoLabel | None:
    """The decided masks of an image less what is unsure; None where the image as a whole is.

    That is so where the classification head and the masks contradict each other, see `_heads_disagree`, or where every
    pixel is ignored.

    Args:
        decision: of C classes.
        mask_probs: (C, H, W) uint8 at the image's original size.
        label_probs: (1 + C,) uint8.
        band: what is unsure.
    """
    found = mask_probs >= decision.pixel_thresholds.astype(np.uint8)[:, None, None]
    masks = apply_decision(decision, mask_probs, label_probs)
    if _heads_disagree(decision, found, masks, label_probs, band):
        return None
    ignored = np.zeros(masks.shape[1:], bool)
    for probs, of_class, raw, mask in zip(mask_probs, decision.classes, found, masks, strict=True):
        ignored |= band.holds(probs, of_class.pixel_threshold)
        if not mask.any():
            ignored |= raw  # dropped, if there was any
    if ignored.all():
        return None
    return PseudoLabel(masks & ~ignored, ignored)


def _heads_disagree(
    decision: Decision, found: np.ndarray, masks: np.ndarray, label_probs: np.ndarray, band: UnsureBand
) -> bool:
    """Whether the classification head contradicts the masks of an image.

    It does where it calls the image defective and no mask is left: the image would be learnt as clean. It does, too,
    where it calls it clean, is unsure of that, and the segmentation by itself has masks: those before the gate, which
    leaves none where the head says clean. Where it is sure, that is for the gate to judge.

    Args:
        decision: of C classes.
        found: (C, H, W) bool, pixels that reach their threshold.
        masks: (C, H, W) bool, decided.
        label_probs: (1 + C,) uint8.
        band: what is unsure.
    """
    if labels(decision, label_probs)[0]:
        return not masks.any()
    if not band.holds(label_probs[0], decision.binary_threshold):
        return False
    areas = np.array([np.count_nonzero(mask) for mask in found])
    return bool((kept(replace(decision, gate="none"), areas, label_probs) & (areas > 0)).any())
