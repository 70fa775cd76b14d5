"""A result against answering nothing, worked by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from steel.metrics.scores import Outcome
from steel.metrics.verdict import reach_verdict


def outcome(*classes: tuple[list[int], list[int], list[int]]) -> Outcome:
    """Of (intersections, predicted, true) pixels of each class, image by image."""
    counts = np.array(classes).transpose(2, 0, 1)
    return Outcome(np.arange(len(counts)), counts, np.zeros((len(counts), 1 + len(classes)), bool))


FOUND = ([10] * 20 + [0] * 20, [10] * 20 + [0] * 20, [10] * 20 + [0] * 20)
"""20 of 40 images have it, and all is right."""
MISSED = ([0] * 40, [0] * 40, [8] * 3 + [0] * 37)
ALARMED = ([0] * 40, [5] * 10 + [0] * 30, [8] * 3 + [0] * 37)
"""3 of 40 images have it; answered there in vain, and in 7 others."""
ABSENT = ([0] * 40, [0] * 40, [0] * 40)


def test_a_good_result() -> None:
    verdict = reach_verdict(outcome(FOUND, ABSENT), ["spot", "scratch"], "held out")
    assert (verdict.mean_dice, verdict.floor, verdict.gain) == (1, 0.75, 0.25)
    assert verdict.is_better_than_nothing
    assert verdict.warning == ""
    low, high = verdict.interval
    # The share of images with a spot, halved: a standard error of sqrt(0.5 * 0.5 / 40) / 2 = 0.040.
    assert (low, high) == pytest.approx((0.25 - 1.96 * 0.0395, 0.25 + 1.96 * 0.0395), abs=0.012)
    assert verdict.sentence == (
        f"better than answering nothing: mean Dice 1.0000 against 0.7500, +0.2500 (95 %: {low:+.4f} to {high:+.4f}) "
        "on 40 images (held out)"
    )


def test_one_image_is_one() -> None:
    verdict = reach_verdict(outcome(([10], [10], [10])), ["spot"], "held out")
    assert " on 1 image (held out)" in verdict.sentence


def test_a_class_that_is_never_answered_is_named_first() -> None:
    verdict = reach_verdict(outcome(FOUND, MISSED), ["spot", "scratch"], "cross-fitted")
    assert verdict.never_answered == ("scratch",)
    assert verdict.warning == "never answered: scratch"
    assert verdict.sentence.startswith(
        "WARNING: scratch is never answered, though 3 images have it; over all classes better than answering nothing: "
        "mean Dice 0.9625 against 0.7125, +0.2500 (95 %: "
    )


def test_a_class_that_would_score_more_if_it_were_never_answered() -> None:
    verdict = reach_verdict(outcome(FOUND, ALARMED), ["spot", "scratch"], "held out")
    assert verdict.never_answered == ()
    assert verdict.worse_than_nothing == ("scratch",)
    assert verdict.classes["scratch"].gain == pytest.approx(-7 / 40)
    low, high = verdict.classes["scratch"].interval
    assert low < -7 / 40 < high < 0
    assert verdict.sentence.startswith(
        f"WARNING: scratch scores less than if it were never answered, -0.1750 (95 %: {low:+.4f} to {high:+.4f}); over "
    )


def test_answering_nothing_is_no_better_than_answering_nothing() -> None:
    verdict = reach_verdict(outcome(MISSED, ABSENT), ["spot", "scratch"], "held out")
    assert (verdict.gain, verdict.interval) == (0, (0, 0))
    assert not verdict.is_better_than_nothing
    assert verdict.warning == "no better than answering nothing; never answered: spot"
    assert verdict.sentence == (
        "WARNING: no better than answering nothing: mean Dice 0.9625 against 0.9625, +0.0000 (95 %: +0.0000 to "
        "+0.0000) on 40 images (held out); spot is never answered, though 3 images have it"
    )


def test_a_gain_within_its_interval_is_not_shown() -> None:
    one_of_two = ([10] + [0] * 39, [10] + [0] * 39, [10] * 2 + [0] * 38)
    verdict = reach_verdict(outcome(one_of_two), ["spot"], "held out")
    assert verdict.gain == pytest.approx(1 / 40)
    assert verdict.interval[0] == 0
    assert verdict.sentence.startswith("WARNING: not shown to be better than answering nothing: mean Dice 0.9750 ")


def test_few_images_and_few_groups_are_said_to_show_nothing() -> None:
    """Of five all go the same way by chance once in sixteen times; a sixth makes it one of 32."""
    alike = outcome(([10] * 10, [10] * 10, [10] * 10))
    in_groups = [replace(alike, groups=np.minimum(np.arange(10), most)) for most in (4, 5)]
    few, enough = (reach_verdict(each, ["spot"], "held out") for each in in_groups)
    told = "10 images in 5 groups are too few to show that it is better than answering nothing"
    assert few.warning == told
    assert few.sentence.startswith(f"WARNING: {told}: mean Dice 1.0000 against 0.0000, +1.0000 (95 %: -1.0000 to ")
    assert enough.warning == ""
    for number, are in ((5, "5 images are"), (1, "1 image is")):
        alone = reach_verdict(alike.select(np.arange(10) < number), ["spot"], "held out")
        assert alone.warning == f"{are} too few to show that it is better than answering nothing"
    missed = replace(outcome(([0] * 10, [0] * 10, [10] * 10)), groups=np.minimum(np.arange(10), 4))
    assert reach_verdict(missed, ["spot"], "held out").warning.startswith("no better than answering nothing; never")


def test_clean_images_alone_say_nothing_of_what_is_found() -> None:
    clean = reach_verdict(outcome(ABSENT), ["spot"], "held out")
    assert clean.warning == "no image here has a defect, so that nothing can be better than answering nothing"
    alarmed = reach_verdict(outcome(([0] * 40, [1] * 4 + [0] * 36, [0] * 40)), ["spot"], "held out")
    assert alarmed.gain == pytest.approx(-0.1)
    assert alarmed.worse_than_nothing == ("spot",)


def test_plain_values() -> None:
    verdict = reach_verdict(outcome(FOUND, MISSED), ["spot", "scratch"], "held out")
    values = verdict.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["better_than_nothing"] is True
    assert values["never_answered"] == ["scratch"]
    assert values["worse_than_nothing"] == []
    assert values["gain"] == pytest.approx(0.25)
    assert values["gain_per_class"] == {"spot": 0.5, "scratch": 0.0}
    assert reach_verdict(outcome(FOUND, ABSENT), ["spot", "scratch"], "held out").to_dict()["warning"] is None
