"""The decision: what turns quantised probabilities into an answer.

A pixel is predicted where its probability reaches the class's pixel threshold. The pixels of one class in one image are
kept or dropped as a whole, by their total area and by what the classification head says (the gate, see `steel.gates`).
All comparisons are between integers, so tuning and prediction cannot disagree. Areas are in pixels of the
original image.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steel.errors import InputError
from steel.gates import GATES, NO_LIMIT
from steel.plain import from_plain

HALF = 128
"""The first quantised probability above one half."""
_MAX_AREA = 1 << 40
"""More pixels than any image has; 255 times as many still fit an int64."""


def _check(value: object, low: int, high: int, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        span = f"at least {low}" if low <= high == _MAX_AREA else f"of {low} to {high}"
        raise InputError(f"decision: {what} must be a whole number {span}, not {value!r}")


@dataclass(frozen=True)
class ClassDecision:
    """What one class needs. Thresholds are quantised probabilities, `round(255 * p)`, and are reached from below."""

    pixel_threshold: int = HALF
    """1 to 255."""
    label_threshold: int = HALF
    """0 to 255; what the head calls the class present from. Only gates that ask for the class act on it."""
    min_area: int = 0
    """In pixels of the original image; 0 for none."""
    max_area: int | None = None
    """In pixels of the original image; None for none."""

    def __post_init__(self) -> None:
        _check(self.pixel_threshold, 1, 255, "pixel_threshold")
        _check(self.label_threshold, 0, 255, "label_threshold")
        _check(self.min_area, 0, _MAX_AREA, "min_area")
        if self.max_area is not None:
            _check(self.max_area, self.min_area, _MAX_AREA, "max_area (no smaller than min_area)")


@dataclass(frozen=True)
class Decision:
    """The whole decision of a checkpoint."""

    classes: tuple[ClassDecision, ...]
    gate: str = "none"
    binary_threshold: int = HALF
    """0 to 255; what the head calls an image defective from. Only gates that ask for any defect act on it."""
    tta: tuple[str, ...] = ()
    """The flipped views that were averaged with the plain one when this was tuned."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise InputError("decision: it must cover at least one class")
        if self.gate not in GATES:
            raise InputError(f"decision: unknown gate {self.gate!r}; choose from {', '.join(GATES)}")
        _check(self.binary_threshold, 0, 255, "binary_threshold")
        if not all(isinstance(view, str) for view in self.tta):
            raise InputError(f"decision: tta must be a list of views, not {self.tta!r}")

    @property
    def pixel_thresholds(self) -> np.ndarray:
        """(C,) int64."""
        return np.array([c.pixel_threshold for c in self.classes], np.int64)

    @property
    def label_thresholds(self) -> np.ndarray:
        """(1 + C,) int64: for any defect, then each class."""
        return np.array([self.binary_threshold, *(c.label_threshold for c in self.classes)], np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "gate": self.gate,
            "binary_threshold": self.binary_threshold,
            "classes": [dataclasses.asdict(c) for c in self.classes],
            "tta": list(self.tta),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Decision":
        """The inverse of `to_dict`.

        Raises:
            InputError: a missing or unknown field, or a value out of range.
        """
        decision: Decision = from_plain(cls, values, "decision")
        return decision


def check_covers(decision: Decision, num_classes: int) -> None:
    """Raises InputError unless a decision is for so many classes."""
    if len(decision.classes) != num_classes:
        raise InputError(f"a decision for {len(decision.classes)} classes, a network for {num_classes}")


def default_decision(num_classes: int, tta: tuple[str, ...] = ()) -> Decision:
    """All thresholds at one half, no limits on areas, no gate: what an untuned model answers."""
    return Decision(classes=(ClassDecision(),) * num_classes, tta=tta)


def kept(decision: Decision, areas: np.ndarray, label_probs: np.ndarray) -> np.ndarray:
    """Which (image, class) pairs keep their predicted pixels.

    Args:
        decision: of C classes.
        areas: (..., C) predicted pixels, integers.
        label_probs: (..., 1 + C) uint8, for any defect and each class.

    Returns:
        (..., C) bool.
    """
    num_classes = len(decision.classes)
    assert areas.shape[-1] == num_classes, (areas.shape, num_classes)
    assert label_probs.shape[-1] == 1 + num_classes, (label_probs.shape, num_classes)
    areas = areas.astype(np.int64)
    class_probs = label_probs[..., 1:].astype(np.int64)
    minima = np.array([c.min_area for c in decision.classes], np.int64)
    maxima = np.array([NO_LIMIT if c.max_area is None else c.max_area for c in decision.classes])
    gate, says = GATES[decision.gate], labels(decision, label_probs)
    keep = (gate.weigh_area(areas, class_probs) >= minima) & (areas <= maxima)
    if gate.asks_any:
        keep &= says[..., :1]
    if gate.asks_class:
        keep &= says[..., 1:]
    return keep


def clears(decision: Decision, any_probs: np.ndarray) -> np.ndarray:
    """Whether an image can have no mask, whatever else is found: P(any defect) (...) uint8 -> (...) bool."""
    return (any_probs < decision.label_thresholds[0]) & GATES[decision.gate].asks_any


def labels(decision: Decision, label_probs: np.ndarray) -> np.ndarray:
    """What the classification head says at the decision's thresholds: (..., 1 + C) uint8 -> bool."""
    return label_probs >= decision.label_thresholds


def apply_decision(
    decision: Decision, mask_probs: np.ndarray, label_probs: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """The answer for one image.

    Args:
        decision: of C classes.
        mask_probs: (C, H, W) uint8 at the image's original size.
        label_probs: (1 + C,) uint8.
        valid: (H, W) bool, False where pixels are ignored (known in evaluation only); they are never predicted.

    Returns:
        (C, H, W) bool.
    """
    assert mask_probs.dtype == np.uint8, mask_probs.dtype
    assert label_probs.dtype == np.uint8, label_probs.dtype
    masks = mask_probs >= decision.pixel_thresholds.astype(np.uint8)[:, None, None]
    if valid is not None:
        masks &= valid
    areas = np.array([np.count_nonzero(mask) for mask in masks])
    masks[~kept(decision, areas, label_probs)] = False
    return masks
