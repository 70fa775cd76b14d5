"""Few images of those that a trained network was validated on tune its decision, and all that test judge it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.quality import thresholds
from bench.quality.thresholds import RULES, Images, drawn, judge
from bench.quality.trial import FLIPS, TEST, VALIDATION, Trial
from steel.errors import InputError
from steel.metrics.statistics import EvaluationStatistics
from tests.shard_folder import defect_mask, make_shards, steel_image


def of_classes(*num_with: int, num: int) -> EvaluationStatistics:
    """Images of which the first so many have each class, found surely."""
    histograms = np.zeros((num, len(num_with), 2, 256), np.uint32)
    histograms[:, :, 0, 0] = 100
    for k, some in enumerate(num_with):
        histograms[:some, k, 1, 255] = 50
    return EvaluationStatistics(np.arange(num), histograms, np.full((num, 1 + len(num_with)), 255, np.uint8))


def test_few_images_of_each_class_are_drawn() -> None:
    whole = Images(of_classes(40, 14, num=90), of_classes(3, 1, num=5), np.ones((2, 2)))
    draws = [drawn(whole, seed) for seed in range(30)]
    counts = np.array([(each.tuned_on.true_areas > 0).sum(axis=0) for each in draws])
    assert counts.min() >= 5 and counts.max() <= 20
    assert len({tuple(each.tuned_on.rows) for each in draws}) == 30
    assert all(each.test is whole.test and each.training_areas is whole.training_areas for each in draws)
    assert np.array_equal(drawn(whole, 3).tuned_on.rows, draws[3].tuned_on.rows)


def test_a_class_far_more_frequent_than_another_cannot_be_drawn() -> None:
    whole = of_classes(90, 4, num=90)
    with pytest.raises(RuntimeError, match=r"\[90, 4\] images have each class, and no draw has \(5, 20\) of all"):
        drawn(Images(whole, whole), 0)


def test_what_one_group_says_is_not_taken_for_what_many_images_say() -> None:
    """All images gain alike by a threshold above the alarms: shown by ten images that differ, not by ten of one coil
    and one of another."""
    histograms = np.zeros((11, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0], histograms[:, 0, 0, 150] = 100, 40 + np.arange(11)
    histograms[:, 0, 1, 255] = 50
    statistics = EvaluationStatistics(np.arange(11), histograms, np.full((11, 2), 255, np.uint8))
    apart, together = (
        judge(Images(replace(statistics, groups=groups), statistics), RULES["ours"], gates=["none"])
        for groups in (None, np.array([0] * 10 + [1]))
    )
    assert apart.is_tuned and apart.gain > 0.1
    assert not together.is_tuned


def test_what_was_trained_is_judged_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, work = "pretrained-bsdata", tmp_path / "pretrained-bsdata"
    with pytest.raises(InputError, match=r"no training of auto has ended there; run .* pretrained-bsdata` first"):
        thresholds.run_on_trained(name, work)
    masks = [defect_mask(n, num_classes=2) for n in range(40)]
    make_shards(work / "shards", [steel_image(n) for n in range(40)], masks, num_classes=2, folds=3)
    trial = Trial(work / "auto-16-2")
    trial.folder.mkdir()
    for fold in (VALIDATION, TEST):
        of_classes(20, 12, num=40).save(trial.folder / f"fold-{fold}-{len(FLIPS)}-flips.npz")
    trial.finish(1, asked=["--preset", "auto"])
    (work / "auto-16-3").mkdir()  # not finished
    monkeypatch.setattr(thresholds, "RULES", {"ours": thresholds.RULES["ours"]})
    text = thresholds.run_on_trained(name, work, resamples=2)
    rows = [line for line in text.splitlines() if line.startswith("| seed")]
    # Every defect is found whole, and nothing else: 100 before and after.
    assert rows == ["| seed 2 | 100.00 | 60.00 | ours | +0.00 | +0.00 | +0.00 | +0.00 | 0 | 0 |"]
    assert f"Trained at {trial.commit}." in text
