"""The table of metrics: what stands in it is found in metrics.json, in the text, in the history and in the curves."""

import json

import numpy as np
import pytest

from steel.decision import Decision, default_decision
from steel.metrics.counts import TRUE
from steel.metrics.scores import decide
from steel.metrics.statistics import EvaluationStatistics, ImageStatistics, image_statistics
from steel.metrics.table import METRICS, Metric, MetricInputs
from steel.reports.evaluation import build_metrics, build_validation_scores, format_table
from steel.reports.plots import draw_history

NAMES = ("spot", "scratch")


@pytest.fixture
def statistics() -> EvaluationStatistics:
    """Three images of 4x4: 8 pixels of a spot, found whole; 4 of a scratch, of which 2 are found; nothing."""

    def image(row: int, true: np.ndarray, predicted: np.ndarray) -> ImageStatistics:
        probs = np.where(np.stack([predicted & 1, predicted >> 1 & 1]) > 0, 200, 50).astype(np.uint8)
        return image_statistics(row, probs, np.array([200, 200, 10], np.uint8), true)

    spot, scratch, half, nothing = (np.zeros((4, 4), np.uint8) for _ in range(4))
    spot[:2] = 1
    scratch[3] = 2
    half[3, :2] = 2
    parts = [image(0, spot, spot), image(1, scratch, half), image(2, nothing, nothing)]
    return EvaluationStatistics.from_images(parts, 2)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two metrics of a stranger's: the share of images that have some defect, and the largest true area per class."""

    def share(inputs: MetricInputs) -> float:
        return float(inputs.outcome.true_labels[:, 0].mean())

    def largest(inputs: MetricInputs) -> np.ndarray:
        return inputs.outcome.counts[..., TRUE].max(axis=0) / 16

    monkeypatch.setitem(METRICS, "defective", Metric("...", share, heading="defective", curve="defective share"))
    monkeypatch.setitem(METRICS, "largest", Metric("...", largest, heading="largest"))


def metrics_of(statistics: EvaluationStatistics, decision: Decision) -> dict:
    return build_metrics(statistics, decision, folds=[1], role="test", class_names=NAMES)


@pytest.mark.usefixtures("toys")
def test_a_metric_of_the_table_is_found_wherever_a_user_would_look(statistics: EvaluationStatistics) -> None:
    decision = default_decision(2)
    metrics = json.loads(json.dumps(metrics_of(statistics, decision)))
    assert metrics["defective"] == pytest.approx(2 / 3)
    assert metrics["largest"] == {"spot": 0.5, "scratch": 0.25}

    text = format_table(metrics).splitlines()
    assert text[1].endswith(", defective 0.6667")
    assert text[3].split()[-7:] == ["IoU", "largest", "head", "F1", "images", "true", "predicted"]
    assert text[4].split()[:5] == ["spot", "1.0000", "1.0000", "1.0000", "0.5000"]

    record = build_validation_scores(statistics, decision, decide(statistics, decision), class_names=NAMES)
    assert record["defective"] == metrics["defective"] and record["largest"] == metrics["largest"]
    figure = draw_history([{"kind": "validation", "phase": 0, "step": 1, "global_step": 1, **record}])
    curves = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert curves["defective share"] == [metrics["defective"]]
    assert curves["mean Dice as tuned"] == [metrics["mean_dice"]]


def test_metrics_json_is_what_it_was(statistics: EvaluationStatistics) -> None:
    """Names and their order, and values worked by hand: Dice 1 and 2 * 2 / 6, and 1 for the four empty pairs."""
    metrics = metrics_of(statistics, default_decision(2))
    assert " ".join(metrics) == (
        "images folds role tta mean_dice mean_dice_all_empty mean_dice_positive miou miou_with_background "
        "dice_per_class dice_positive_per_class iou_per_class predicted_images_per_class true_images_per_class "
        "classification intervals cross_entropy decision cross_fitted verdict"
    )
    assert metrics["mean_dice"] == pytest.approx((1 + 2 / 3 + 4) / 6)
    assert metrics["mean_dice_positive"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["miou"] == pytest.approx((1 + 0.5) / 2)
    assert list(metrics["intervals"]) == [
        *("confidence", "resamples", "mean_dice", "mean_dice_positive", "miou", "miou_with_background")
    ]
    assert metrics["classification"]["spot"] == {
        "accuracy": pytest.approx(1 / 3),
        "precision": pytest.approx(1 / 3),
        "recall": 1.0,
        "f1": 0.5,
    }


def test_what_has_no_value_is_null(statistics: EvaluationStatistics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "endless", Metric("...", lambda inputs: np.float64("inf"), heading="endless"))
    metrics = metrics_of(statistics, default_decision(2))
    assert metrics["endless"] is None
    assert "endless -" in format_table(metrics)
