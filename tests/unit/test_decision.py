"""The decision on images and on their histograms, gate by gate."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.decision import ClassDecision, Decision, apply_decision, clears, default_decision, kept, labels
from steel.errors import InputError
from steel.gates import GATES, NO_LIMIT, soft_areas
from steel.metrics.counts import histograms, valid_mask
from steel.metrics.scores import decided_counts
from tests.plain_counts import pair_counts

NUM_CLASSES = 2


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    def one_class() -> ClassDecision:
        minimum = draw(st.integers(0, 30))
        return ClassDecision(
            draw(st.integers(1, 255)),
            draw(st.integers(0, 255)),
            minimum,
            draw(st.none() | st.integers(minimum, 60)),
        )

    return Decision(
        tuple(one_class() for _ in range(NUM_CLASSES)),
        draw(st.sampled_from(sorted(GATES))),
        draw(st.integers(0, 255)),
        ("hflip",),
    )


@settings(max_examples=150, deadline=None)
@given(decision=decisions(), seed=st.integers(0, 2**32 - 1))
def test_an_image_is_cleared_where_no_pixels_would_be_kept_whatever_its_classes(decision: Decision, seed: int) -> None:
    label_probs = np.random.default_rng(seed).integers(0, 256, (5, 1 + NUM_CLASSES), dtype=np.uint8)
    label_probs[:, 1:] = 255  # as sure as can be
    without_limits = replace(decision, classes=tuple(replace(c, min_area=0, max_area=None) for c in decision.classes))
    areas = np.full((5, NUM_CLASSES), 10**9)
    cleared = clears(decision, label_probs[:, 0])
    np.testing.assert_array_equal(cleared, ~kept(without_limits, areas, label_probs).any(axis=1))
    assert clears(decision, label_probs[0, 0]) == cleared[0]


@settings(max_examples=150, deadline=None)
@given(decision=decisions(), seed=st.integers(0, 2**32 - 1), ignore=st.booleans())
def test_histograms_give_the_very_answer_of_the_image(decision: Decision, seed: int, ignore: bool) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.integers(0, 256, (NUM_CLASSES, 6, 8), dtype=np.uint8)
    label_probs = rng.integers(0, 256, 1 + NUM_CLASSES, dtype=np.uint8)
    bitmask = rng.integers(0, 1 << NUM_CLASSES, (6, 8), dtype=np.uint8)
    ignore_bit = 7 if ignore else None
    if ignore:
        bitmask[rng.random(bitmask.shape) < 0.3] |= 0x80
    masks = apply_decision(decision, probs, label_probs, valid_mask(bitmask, ignore_bit))
    counts = histograms(probs, bitmask, NUM_CLASSES, ignore_bit)
    assert np.array_equal(
        decided_counts(decision, counts[None], label_probs[None])[0], pair_counts(masks, bitmask, ignore_bit)
    )


@settings(max_examples=60, deadline=None)
@given(decision=decisions())
def test_a_decision_survives_json(decision: Decision) -> None:
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision


def test_pixels_are_predicted_from_the_threshold_on() -> None:
    decision = Decision((ClassDecision(pixel_threshold=100),))
    masks = apply_decision(decision, np.array([[[99, 100, 101]]], np.uint8), np.zeros(2, np.uint8))
    assert masks.tolist() == [[[False, True, True]]]


@pytest.mark.parametrize(("area", "expected"), [(9, False), (10, True), (20, True), (21, False)])
def test_areas_within_the_limits_are_kept_limits_included(area: int, expected: bool) -> None:
    decision = Decision((ClassDecision(min_area=10, max_area=20),))
    assert kept(decision, np.array([area]), np.array([0, 0], np.uint8)).tolist() == [expected]


@pytest.mark.parametrize(
    ("gate", "binary", "label", "expected"),
    [
        ("none", 0, 0, True),
        ("binary", 99, 255, False),
        ("binary", 100, 0, True),
        ("class", 255, 149, False),
        ("class", 0, 150, True),
        ("binary+class", 100, 149, False),
        ("binary+class", 99, 150, False),
        ("binary+class", 100, 150, True),
    ],
)
def test_hard_gates(gate: str, binary: int, label: int, expected: bool) -> None:
    decision = Decision((ClassDecision(label_threshold=150),), gate, 100)
    assert kept(decision, np.array([5]), np.array([binary, label], np.uint8)).tolist() == [expected]


@pytest.mark.parametrize(
    ("label", "smallest"),
    [(255, 0), (204, 25), (51, 400), (1, 25400)],  # p = 1, 0.8, 0.2, 1 / 255: min_area * (1 - p) / p
)
def test_soft_gate_scales_the_minimum_by_the_odds_against_the_class(label: int, smallest: int) -> None:
    decision = Decision((ClassDecision(min_area=100),), "soft")
    label_probs = np.array([0, label], np.uint8)
    assert kept(decision, np.array([smallest]), label_probs)[0]
    if smallest:
        assert not kept(decision, np.array([smallest - 1]), label_probs)[0]


def test_soft_gate_drops_all_areas_of_an_impossible_class_and_leaves_the_maximum_alone() -> None:
    decision = Decision((ClassDecision(min_area=1, max_area=500),), "soft")
    assert not kept(decision, np.array([500]), np.array([0, 0], np.uint8))[0]
    assert not kept(decision, np.array([501]), np.array([0, 255], np.uint8))[0]


@given(area=st.integers(0, 10**7), label=st.integers(0, 255), minimum=st.integers(0, 10**6))
def test_the_search_and_the_decision_share_one_soft_gate(area: int, label: int, minimum: int) -> None:
    decision = Decision((ClassDecision(min_area=minimum),), "soft")
    expected = area * label >= minimum * (255 - label)  # in Python's own integers
    assert kept(decision, np.array([area]), np.array([0, label], np.uint8)).tolist() == [expected]
    largest = int(soft_areas(np.array([area]), np.array([label]))[0])
    assert (minimum <= largest) == expected
    assert (largest == NO_LIMIT) == (label == 255)


def test_labels_are_the_head_at_its_thresholds() -> None:
    decision = Decision((ClassDecision(label_threshold=10), ClassDecision(label_threshold=200)), "none", 50)
    assert labels(decision, np.array([[50, 9, 200], [49, 10, 199]], np.uint8)).tolist() == [
        [True, False, True],
        [False, True, False],
    ]


def test_the_default_is_one_half_and_nothing_else() -> None:
    decision = default_decision(1)
    masks = apply_decision(decision, np.array([[[127, 128]]], np.uint8), np.zeros(2, np.uint8))
    assert masks.tolist() == [[[False, True]]]


def broken(**changes: object) -> dict:
    good = default_decision(1).to_dict()
    good["classes"][0].update(changes.pop("of_class", {}))
    return good | changes


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (broken(of_class={"pixel_threshold": 0}), "pixel_threshold must be a whole number of 1 to 255, not 0"),
        (broken(of_class={"pixel_threshold": 0.5}), "pixel_threshold"),
        (broken(of_class={"label_threshold": 256}), "label_threshold"),
        (broken(of_class={"min_area": -1}), "min_area"),
        (broken(of_class={"min_area": 10, "max_area": 9}), "max_area"),
        (broken(of_class={"colour": 1}), "colour"),
        (broken(gate="maybe"), "unknown gate 'maybe'; choose from none, binary, class, binary+class, soft"),
        (broken(binary_threshold=True), "binary_threshold"),
        (broken(classes=[]), "at least one class"),
        (broken(classes=3), "classes must be a list, not 3"),
        (broken(tta="hflip"), "tta"),
        (broken(extra=1), "extra"),
        ({"gate": "none"}, "the field classes is missing"),
        ({"classes": [], "gate": "none", "binary_threshold": 128}, "the field tta is missing"),
        (broken(of_class={"min_area": 10**30}), "min_area"),
        ([], "must be an object"),
        (None, "must be an object"),
    ],
)
def test_a_broken_decision_is_refused(values: dict, says: str) -> None:
    with pytest.raises(InputError, match=r"^decision") as caught:
        Decision.from_dict(values)
    assert says in str(caught.value)
