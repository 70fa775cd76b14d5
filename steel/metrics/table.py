"""The metrics by name: what `metrics.json`, the text report, the history, the curves and the trackers show of a result.

All are computed from the answers to some images and the statistics behind them, so none reads an image again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from steel.labels.classes import ANY
from steel.metrics.bootstrap import CONFIDENCE, NUM_RESAMPLES, bootstrap
from steel.metrics.counts import PREDICTED, TRUE, cross_entropy
from steel.metrics.scores import Outcome, Scores, label_scores, ratios, score_sums
from steel.metrics.statistics import EvaluationStatistics


@dataclass(frozen=True, eq=False)
class MetricInputs:
    """What metrics are computed from."""

    outcome: Outcome
    """The answers to N images, against the truth."""
    statistics: EvaluationStatistics
    """Of the same images: histograms of the probabilities, what the head says."""
    class_names: Sequence[str]
    """C names."""
    seed: int = 0
    """Of the bootstrap."""

    @cached_property
    def scores(self) -> Scores:
        """Over all images."""
        return ratios(score_sums(self.outcome).total())


@dataclass(frozen=True)
class Metric:
    """One metric, under its name in the table."""

    meaning: str
    """In a few words, for the documentation."""
    value: Callable[[MetricInputs], Any]
    """A number, C of them for the classes, or a mapping of numbers; NaN or None where there is nothing to judge."""
    heading: str = ""
    """What the text report calls it: in its line of numbers, or above a column where it has a value per class. Empty
    where it is not shown there."""
    curve: str = ""
    """What the legend of the validation curves calls it, which show 0 to 1. Empty where it is not drawn."""
    is_watched: bool = True
    """Whether each validation in training computes it, for the history and the trackers."""
    has_interval: bool = False
    """Whether it is one of `Scores`, with a bootstrap interval."""


def _overall(name: str, meaning: str, *, has_interval: bool = True, **shown: Any) -> Metric:
    """A metric that is one of `Scores`."""
    return Metric(meaning, lambda inputs: getattr(inputs.scores, name), has_interval=has_interval, **shown)


def _images_with(kind: int) -> Callable[[MetricInputs], np.ndarray]:
    """Images in which a class has such pixels, per class."""
    return lambda inputs: np.count_nonzero(inputs.outcome.counts[..., kind], axis=0)


def _classification(inputs: MetricInputs) -> dict[str, dict[str, float]]:
    said, true = inputs.outcome.labels, inputs.outcome.true_labels
    return {name: asdict(label_scores(said[:, i], true[:, i])) for i, name in enumerate((ANY, *inputs.class_names))}


def _intervals(inputs: MetricInputs) -> dict[str, Any]:
    names = [name for name, metric in METRICS.items() if metric.has_interval]
    spans = {name: bootstrap(inputs.outcome, name, seed=inputs.seed) for name in names}
    return {
        "confidence": CONFIDENCE,
        "resamples": NUM_RESAMPLES,
        **{name: None if span is None else list(span) for name, span in spans.items()},
    }


METRICS: dict[str, Metric] = {
    "mean_dice": _overall(
        "mean_dice",
        "Kaggle's: the mean over all (image, class) pairs, 1 for a pair that is empty on both sides",
        heading="mean Dice",
        curve="mean Dice as tuned",
    ),
    "mean_dice_all_empty": _overall(
        "mean_dice_all_empty",
        "what answering nothing at all would get",
        has_interval=False,
        heading="all-empty floor",
        curve="of an all-empty answer",
    ),
    "mean_dice_positive": _overall(
        "mean_dice_positive",
        "the mean over the pairs with a true mask",
        heading="positive Dice",
        curve="positive Dice",
    ),
    "miou": _overall(
        "miou",
        "mean of the classes' intersection over union, each summed over all images first",
        heading="mean IoU",
        curve="mean IoU",
    ),
    "miou_with_background": _overall(
        "miou_with_background", "the same with the background as one class more", is_watched=False
    ),
    "dice_per_class": Metric(
        "as `mean_dice`, of each class",
        lambda inputs: inputs.scores.dice_per_class,
        heading="Dice",
        is_watched=False,
    ),
    "dice_positive_per_class": Metric(
        "as `mean_dice_positive`, of each class",
        lambda inputs: inputs.scores.dice_positive_per_class,
        heading="positive Dice",
    ),
    "iou_per_class": Metric(
        "intersection over union of each class",
        lambda inputs: inputs.scores.iou_per_class,
        heading="IoU",
        is_watched=False,
    ),
    "predicted_images_per_class": Metric("images answered with each class", _images_with(PREDICTED), is_watched=False),
    "true_images_per_class": Metric("images that have each class", _images_with(TRUE), is_watched=False),
    "classification": Metric(
        "accuracy, precision, recall and F1 of the classification head, for any defect and each class",
        _classification,
        is_watched=False,
    ),
    "intervals": Metric("95 % bootstrap intervals over the images that tell of a score", _intervals, is_watched=False),
    "cross_entropy": Metric(
        "of the pixels' probabilities, before any threshold", lambda inputs: cross_entropy(inputs.statistics.histograms)
    ),
}
"""Every metric by name, in the order of `metrics.json`."""


def headings(*results: Mapping[str, Any], per_class: bool) -> dict[str, str]:
    """What texts and pages show of some results: the metrics by name, with their headings.

    Args:
        results: as `compute` returns them; older ones may lack a metric.
        per_class: those with a value for each class, or those with a single one.
    """
    of_classes = {name for result in results for name, value in result.items() if isinstance(value, Mapping)}
    return {
        name: metric.heading for name, metric in METRICS.items() if metric.heading and (name in of_classes) == per_class
    }


def compute(inputs: MetricInputs, names: Sequence[str]) -> dict[str, Any]:
    """Metrics as plain JSON values: NaN is None, values per class are under the classes' names.

    Args:
        inputs: at least one image.
        names: of the table.
    """
    return {name: _plain(METRICS[name].value(inputs), inputs.class_names) for name in names}


def _plain(value: Any, class_names: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item, class_names) for name, item in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return {name: plain_number(item) for name, item in zip(class_names, value, strict=True)}
    if isinstance(value, list):
        return value
    return plain_number(value)


def plain_number(value: Any) -> Any:
    """A number as JSON has it; None where it is NaN or infinite."""
    number = np.asarray(value).item()
    return None if isinstance(number, float) and not math.isfinite(number) else number
