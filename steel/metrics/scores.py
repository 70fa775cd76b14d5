"""From a decision's answers to figures.

Every score is a ratio of sums over images, so one set of formulas serves the score itself and each bootstrap resample.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from steel.decision import Decision, kept, labels
from steel.metrics.counts import INTERSECTION, PREDICTED, TRUE, counts_from, dice
from steel.metrics.statistics import EvaluationStatistics, joined_groups


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was answered for each of N images, against the truth."""

    rows: np.ndarray
    """(N,) int64, ascending."""
    counts: np.ndarray
    """(N, C, 3) int64 `(intersection, predicted, true)` pixels."""
    labels: np.ndarray
    """(N, 1 + C) bool: what the classification head says of any defect and of each class."""
    background: np.ndarray | None = None
    """(N, 3) int64 pixels, when they are known."""
    groups: np.ndarray | None = None
    """As in `EvaluationStatistics`."""

    @classmethod
    def concat(cls, parts: "Sequence[Outcome]") -> "Outcome":
        """Join the answers to different images, without background counts: each part may have its own decision."""
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows)
        counts, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("counts", "labels"))
        return cls(rows[order], counts[order], labels[order], groups=joined_groups(parts, order))

    @property
    def num_groups(self) -> int:
        """Pieces of evidence: groups where these are known, else images."""
        return len(self.rows) if self.groups is None else len(np.unique(self.groups))

    def select(self, chosen: np.ndarray) -> "Outcome":
        """The images where `chosen` (N,) bool is set."""
        background, groups = (None if of is None else of[chosen] for of in (self.background, self.groups))
        return Outcome(self.rows[chosen], self.counts[chosen], self.labels[chosen], background, groups)

    @property
    def true_labels(self) -> np.ndarray:
        """(N, 1 + C) bool: whether the image holds any defect and each class (in pixels that are not ignored)."""
        present = self.counts[..., TRUE] > 0
        return np.concatenate([present.any(axis=1, keepdims=True), present], axis=1)


def decide(statistics: EvaluationStatistics, decision: Decision) -> Outcome:
    """Apply a decision to stored statistics; same answers as `apply_decision` on the images."""
    return Outcome(
        statistics.rows,
        decided_counts(decision, statistics.histograms, statistics.label_probs),
        labels(decision, statistics.label_probs),
        # Background counts hold for the decision they were made under, and no other.
        statistics.background if statistics.decision == decision else None,
        statistics.groups,
    )


@dataclass(frozen=True, eq=False)
class ScoreSums:
    """What the scores are ratios of. Leading shape (N,) for single images, () or (R,) for sums over them."""

    images: np.ndarray
    """(...)"""
    all_dice: np.ndarray
    """(...) Kaggle's Dice, over all classes."""
    all_dice_positive: np.ndarray
    """(...) the same where the class is truly there, else 0."""
    dice: np.ndarray
    """(..., C) of each class."""
    dice_positive: np.ndarray
    """(..., C)"""
    positives: np.ndarray
    """(..., C) 1 where the class is truly there."""
    intersections: np.ndarray
    """(..., C) pixels."""
    unions: np.ndarray
    """(..., C) pixels."""
    background: np.ndarray
    """(..., 2) intersection and union in pixels; NaN when unknown."""

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "ScoreSums":
        """Apply `function` to each array (a sum over the leading axis, say)."""
        return ScoreSums(*(function(getattr(self, f.name)) for f in fields(self)))

    def table(self) -> np.ndarray:
        """(N, K) all sums of single images, side by side."""
        arrays = [getattr(self, f.name) for f in fields(self)]
        return np.hstack([of.reshape(len(of), math.prod(of.shape[1:])) for of in arrays])

    def with_table(self, table: np.ndarray) -> "ScoreSums":
        """The sums that a table (R, K) holds, each in the shape that it has here but for the leading axis."""
        shapes = [getattr(self, f.name).shape[1:] for f in fields(self)]
        columns = np.split(table, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)
        return ScoreSums(*(part.reshape(-1, *shape) for part, shape in zip(columns, shapes, strict=True)))

    def total(self) -> "ScoreSums":
        """The sums over all images, each rounded once: whoever adds up the same numbers as exactly, in whatever order,
        finds the same score to the last digit."""
        sums = self.map(lambda values: np.apply_along_axis(math.fsum, 0, values))
        pairs = {"all_dice": self.dice, "all_dice_positive": self.dice_positive}
        return replace(sums, **{name: np.asarray(math.fsum(values.ravel())) for name, values in pairs.items()})


def score_sums(outcome: Outcome) -> ScoreSums:
    """Each image's share of every sum."""
    num_images = len(outcome.counts)
    positive = outcome.true_labels[:, 1:].astype(np.float64)
    pair_dice = dice(outcome.counts)
    pair_dice_positive = pair_dice * positive
    both = outcome.counts[..., PREDICTED] + outcome.counts[..., TRUE]
    background = np.full((num_images, 2), np.nan)
    if outcome.background is not None:
        background[:, 0] = outcome.background[:, INTERSECTION]
        background[:, 1] = outcome.background[:, PREDICTED] + outcome.background[:, TRUE] - background[:, 0]
    return ScoreSums(
        images=np.ones(num_images),
        all_dice=pair_dice.sum(axis=1),
        all_dice_positive=pair_dice_positive.sum(axis=1),
        dice=pair_dice,
        dice_positive=pair_dice_positive,
        positives=positive,
        intersections=outcome.counts[..., INTERSECTION].astype(np.float64),
        unions=(both - outcome.counts[..., INTERSECTION]).astype(np.float64),
        background=background,
    )


@dataclass(frozen=True, eq=False)
class Scores:
    """The segmentation scores; NaN where there is nothing to score (no such image, no pixel in the union)."""

    mean_dice: np.ndarray
    """(...) Kaggle's: the mean over all (image, class) pairs, 1 for a pair that is empty on both sides."""
    mean_dice_all_empty: np.ndarray
    """(...) what answering nothing at all would get: the share of pairs without a true mask."""
    mean_dice_positive: np.ndarray
    """(...) the mean over the pairs with a true mask."""
    dice_per_class: np.ndarray
    """(..., C)"""
    dice_positive_per_class: np.ndarray
    """(..., C)"""
    iou_per_class: np.ndarray
    """(..., C) intersection over union, both summed over all images first."""
    miou: np.ndarray
    """(...) mean of `iou_per_class` over the classes with any true or predicted pixel."""
    miou_with_background: np.ndarray
    """(...) the same with the background (pixels of no class) as one class more."""


def ratios(sums: ScoreSums) -> Scores:
    """The scores of sums over images; the leading shape is kept."""
    num_classes = sums.dice.shape[-1]
    num_pairs = sums.images * num_classes
    ious = _ratio(sums.intersections, sums.unions)
    background_iou = _ratio(sums.background[..., :1], sums.background[..., 1:])
    miou_with_background = _mean_known(np.concatenate([background_iou, ious], axis=-1))
    return Scores(
        mean_dice=_ratio(sums.all_dice, num_pairs),
        mean_dice_all_empty=_ratio(num_pairs - sums.positives.sum(axis=-1), num_pairs),
        mean_dice_positive=_ratio(sums.all_dice_positive, sums.positives.sum(axis=-1)),
        dice_per_class=_ratio(sums.dice, sums.images[..., None]),
        dice_positive_per_class=_ratio(sums.dice_positive, sums.positives),
        iou_per_class=ious,
        miou=_mean_known(ious),
        miou_with_background=np.where(np.isnan(sums.background[..., 0]), np.nan, miou_with_background),
    )


def telling(name: str, *outcomes: Outcome) -> np.ndarray:
    """(N,) bool: the images that say anything of a score, by its name in `Scores`, under any of some answers to them.

    How far the score can be trusted goes by how many these are: a thousand clean images tell nothing of positive Dice.
    """
    counts = np.stack([outcome.counts for outcome in outcomes])
    if name == "mean_dice_positive":
        return np.any(counts[..., TRUE] > 0, axis=(0, 2))
    if name == "miou":
        return np.any(counts > 0, axis=(0, 2, 3))
    return np.ones(counts.shape[1], bool)


def score(outcome: Outcome) -> Scores:
    """The scores over all images of an outcome."""
    return ratios(score_sums(outcome).total())


def missed(outcome: Outcome) -> list[float | None]:
    """How badly clean images and then each class are answered, (1 + C) shares of 1; None where there is no such image.

    Of clean images those of which anything is answered; of a class 1 less its positive Dice. Each is a ratio of exact
    sums: the same on any machine.
    """
    clean, is_answered = ~outcome.true_labels[:, 0], np.any(outcome.counts[..., PREDICTED] > 0, axis=1)
    shares = (is_answered[clean].mean() if clean.any() else math.nan, *(1 - score(outcome).dice_positive_per_class))
    return [None if math.isnan(share) else float(share) for share in shares]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN where the whole is 0 or unknown."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN when nothing is left."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


@dataclass(frozen=True)
class LabelScores:
    """How well the head names one label (any defect, or a class) over images; NaN for 0 / 0."""

    accuracy: float
    precision: float
    recall: float
    f1: float


def label_scores(predicted: np.ndarray, true: np.ndarray) -> LabelScores:
    """Image-level scores of one label.

    `f1` is `2 TP / (2 TP + FP + FN)`: 0 when nothing right was said, undefined only when the label is neither true nor
    said of any image.

    Args:
        predicted: (N,) bool.
        true: (N,) bool.
    """
    hits = float(np.count_nonzero(predicted & true))
    said, there = float(np.count_nonzero(predicted)), float(np.count_nonzero(true))

    def over(part: float, whole: float) -> float:
        return part / whole if whole else float("nan")

    return LabelScores(
        accuracy=over(float(np.count_nonzero(predicted == true)), len(true)),
        precision=over(hits, said),
        recall=over(hits, there),
        f1=over(2 * hits, said + there),
    )


def decided_counts(decision: Decision, histograms: np.ndarray, label_probs: np.ndarray) -> np.ndarray:
    """The pair counts that `apply_decision` would give, without the images.

    Args:
        decision: of C classes.
        histograms: (N, C, 2, 256) integer counts.
        label_probs: (N, 1 + C) uint8.

    Returns:
        (N, C, 3) int64 `(intersection, predicted, true)`.
    """
    counts = counts_from(histograms, decision.pixel_thresholds)
    dropped = ~kept(decision, counts[..., PREDICTED], label_probs)
    counts[..., :TRUE][dropped] = 0
    return counts
