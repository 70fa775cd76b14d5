"""Figures over seeds, worked by hand."""

import math

import numpy as np
import pytest

from bench.quality import cascade
from bench.quality.cascade import tasks
from bench.quality.seeds import gain, mean_dice, miou, spread, values
from steel.evaluation.scores import Outcome
from tests.shard_folder import defect_mask, make_shards, steel_image


def outcome(hits: list[int]) -> Outcome:
    """Four images of one class with 10 true pixels, 10 predicted and so many in common."""
    counts = np.array([[[h, 10, 10]] for h in hits])
    return Outcome(np.arange(len(hits)), counts, np.ones((len(hits), 2), bool))


def test_a_gain_is_the_mean_of_the_seeds_with_students_interval() -> None:
    theirs = [outcome([5, 5, 5, 5])] * 3
    ours = [outcome([6, 6, 6, 6]), outcome([7, 7, 7, 7]), outcome([8, 8, 8, 8])]
    found = gain(ours, theirs, mean_dice)
    assert found.of_seeds == pytest.approx((0.1, 0.2, 0.3))
    assert found.mean == pytest.approx(0.2)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.seeds_interval == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert found.images_interval == pytest.approx((0.2, 0.2))  # every image gains alike
    assert found.text().startswith("+20.00 | -4.84 to +44.84 | +20.00 to +20.00")


def test_resampling_images_moves_a_gain_that_rests_on_one_of_them() -> None:
    low, high = gain([outcome([10, 5, 5, 5])], [outcome([5, 5, 5, 5])], mean_dice).images_interval
    assert low == 0
    assert high > 0.125


def test_one_seed_says_nothing_of_others() -> None:
    found = gain([outcome([6])], [outcome([5])], mean_dice)
    assert found.seeds_interval is None
    assert found.text() == "+10.00 | one seed | +10.00 to +10.00"


def test_spread_shows_every_seed() -> None:
    assert values([outcome([5, 5])], miou) == pytest.approx((1 / 3,))
    assert spread((0.1, 0.3)) == "20.00 (10.00, 30.00)"


def test_six_networks_cover_what_one_does() -> None:
    one, six = tasks(4)
    assert len(six) == 6
    assert sorted(k for task in six for k in task.classes) == list(one.classes)
    assert sorted(k for task in six for k in task.labels) == list(one.labels)


@pytest.mark.slow
def test_one_and_six_are_trained_and_judged_alike(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cascade, "PACE_STEPS", 6)
    images = [steel_image(n, 64, 128) for n in range(36)]
    masks = [defect_mask(n, 64, 128, num_classes=4) for n in range(36)]
    data = make_shards(tmp_path / "shards", images, masks, num_classes=4, folds=3)
    text = cascade.run(data, seconds=0.01, seed=0)
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == [
        "one unified network",
        "six, the same time together",
        "six, the same time each",
    ]
    parameters = [int(row[5].replace(",", "")) for row in rows[2:]]
    assert parameters[1] == parameters[2] > 4 * parameters[0]
    assert [row[9].strip() for row in rows[2:]] == ["1", "6", "6"]
