"""What threshold tuning says of itself, word by word."""

import re
from dataclasses import replace

import pytest

from steel.decision import ClassDecision, default_decision
from steel.metrics.scores import decide
from steel.thresholds.crossfit import Gain
from steel.thresholds.explanation import explain
from steel.thresholds.gate_search import Rung
from steel.thresholds.tuning import tune_thresholds
from tests.tuning_images import constant_statistics, rarely_seen


def test_the_explanation_says_what_was_gained() -> None:
    found = tune_thresholds(constant_statistics(100, 255), gates=("none",), class_names=["scratch"])
    gain, gate, scratch = found.explanation
    # Ten of twenty images gain 1: the mean is 0.5, its standard error sqrt(0.25 / 19).
    assert gain == (
        "tuned on 20 images: mean Dice 0.5000 with every threshold at one half, now 1.0000, cross-fitted 1.0000 "
        "(a gain of +0.5000 ± 0.1147); answering nothing gets 0.5000"
    )
    assert gate == "gate none: the segmentation alone decides"
    assert scratch == (
        "scratch: pixels from 0.31; Dice 0.5000 -> 1.0000, cross-fitted 1.0000, the floor is 0.5000 (10 images have "
        "it): few, so this rests on little; cross-fitted: thresholds +0.5000 ± 0.1147 taken, minimum area +0.0000 ± "
        "0.0000 left out, maximum area +0.0000 ± 0.0000 left out"
    )


def test_the_explanation_says_that_nothing_was_gained() -> None:
    gain, _, scratch = tune_thresholds(
        constant_statistics(255, 255), gates=("none",), class_names=["scratch"]
    ).explanation
    assert gain == (
        "tuned on 20 images: mean Dice 1.0000 with every threshold at one half, and these stay: tuned ones get "
        "1.0000 cross-fitted (+0.0000 ± 0.0000), which may be noise; answering nothing gets 0.5000"
    )
    assert scratch == (
        "scratch: pixels from 0.50; Dice 1.0000, the floor is 0.5000 (10 images have it): few, so this rests on little"
    )


def test_the_explanation_says_what_was_taken_for_a_class_to_be_found() -> None:
    """At 0.39 of the head there are two defects and eight alarms, which no threshold tells apart. Behind a gate one
    half silences the class, and scores more."""
    statistics = rarely_seen(98, 28)
    statistics.histograms[:28, 0, 0, 180], statistics.histograms[:28, 0, 0, 250] = 0, 40
    statistics.histograms[-2:, 0, 1, 1:], statistics.histograms[-2:, 0, 1, 250] = 0, 60
    statistics.label_probs[:8], statistics.label_probs[-2:] = 100, 100
    (_, gate, scratch) = tune_thresholds(statistics, gates=("class",), class_names=["scratch"]).explanation
    assert gate == "gate class: only classes that the classification head sees are answered"
    taken = r"cross-fitted: thresholds -0\.0\d+ ± 0\.0\d+ taken all the same \(the class is hardly found without\)$"
    assert re.search(taken, scratch)


def test_the_explanation_says_why_a_gate_that_gains_more_was_not_taken() -> None:
    """The head calls all images clean: a gate that asks it stops all alarms, and the class with them."""
    statistics = rarely_seen(98, 30)
    statistics.histograms[:30, 0, 0, 180], statistics.histograms[:30, 0, 0, 250] = 0, 40
    _, gate, _ = tune_thresholds(statistics, gates=("none", "binary", "soft"), class_names=["scratch"]).explanation
    assert gate.startswith("gate none: the segmentation alone decides (cross-fitted gains over the simplest: binary +")
    assert re.search(r"binary \+0\.\d+ ± 0\.\d+, hardly finding scratch; soft \+0\.0000 ± 0\.0000\)$", gate)


def test_gates_are_held_against_the_simplest_in_whatever_order_they_are_asked_for() -> None:
    statistics = rarely_seen(98, 30)
    found = [tune_thresholds(statistics, gates=gates) for gates in (("none", "binary"), ("binary", "none"))]
    assert found[0].explanation == found[1].explanation and found[0].decision == found[1].decision
    assert "over the simplest: binary" in found[1].explanation[1]


@pytest.mark.parametrize(
    ("chosen", "minimum", "maximum"),
    [
        (ClassDecision(min_area=9, max_area=90), "taken", "taken"),
        (ClassDecision(min_area=9), "taken", "allowed, but on all images none is better"),
        (ClassDecision(max_area=90), "allowed, but on all images none is better", "taken"),
    ],
)
def test_a_limit_that_the_decision_does_not_have_is_not_called_taken(
    chosen: ClassDecision, minimum: str, maximum: str
) -> None:
    """A family that gains cross-fitted is taken; on all images the best of its settings may have no limit."""
    statistics, gain = constant_statistics(100, 255), Gain(0.0123, 0.0088)
    decision = replace(default_decision(1), classes=(chosen,))
    rungs = [Rung("minimum area", gain, is_taken=True), Rung("maximum area", gain, is_taken=True)]
    *_, scratch = explain(statistics, ["scratch"], decision, decide(statistics, decision), gain, {}, {}, [rungs])
    limits = f"minimum area +0.0123 ± 0.0088 {minimum}, maximum area +0.0123 ± 0.0088 {maximum}"
    assert scratch.endswith(f"; cross-fitted: {limits}")
