"""The benchmark of lamps that drift: what its images are, and the whole of it at a tiny size."""

from pathlib import Path

import numpy as np
import pytest

from bench.quality import drift
from bench.quality import trial as of_trial
from bench.quality.seeds import mean_dice, spread, values
from bench.quality.trial import TEST
from steel.metrics.statistics import EvaluationStatistics
from steel.shards.reader import ShardReader
from tests.shard_folder import defect_mask, make_shards, steel_image
from tests.tiny_pretrained import make_tiny


@pytest.mark.parametrize("light", drift.LAMPS)
def test_a_lamp_multiplies_gray_levels_up_to_white_and_leaves_masks_alone(tmp_path: Path, light: float) -> None:
    image = np.arange(32 * 64, dtype=np.uint8).reshape(32, 64)
    data = make_shards(tmp_path / "shards", [image], [defect_mask(3, 32, 64)])
    as_stored, seen = ShardReader(data).read(0), drift.UnderLamp(data, light).read(0)
    expected = [[min(255, round(int(level) * light)) for level in row] for row in as_stored.image]
    assert seen.image.dtype == np.uint8
    assert seen.image.tolist() == expected
    assert np.array_equal(seen.bitmask, as_stored.bitmask)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_images_are_judged_under_each_lamp_by_networks_trained_on_them_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [steel_image(n, 64, 64) for n in range(30)]
    masks = [defect_mask(n, 64, 64, num_classes=2) for n in range(30)]
    data = make_shards(tmp_path / "shards", images, masks, num_classes=2, folds=3)
    weights = make_tiny(tmp_path, monkeypatch)
    work = tmp_path / "work"
    seen: list[tuple[Path, EvaluationStatistics]] = []

    def evaluate(checkpoint: Path, reader: ShardReader, fold: int, tta: tuple[str, ...]) -> EvaluationStatistics:
        seen.append((checkpoint, of_trial.evaluate(checkpoint, reader, fold, tta)))
        return seen[-1][1]

    monkeypatch.setattr(drift, "evaluate", evaluate)

    text = drift.run("pretrained-neu", data, weights, work, passes=2, seeds=(0,))

    assert (
        "judged on the 10 images that stand in for the test, their gray levels multiplied by 0.7, 0.85, 1, 1.15, 1.3"
        in text
    )
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [(float(row[0]), row[1]) for row in rows] == [(x, name) for x in drift.LAMPS for name in drift.MEASURES]
    as_stored = next(row for row in rows if row[:2] == ["1", "mean Dice"])
    trials = [of_trial.Trial(work / name) for name in ("auto-2-0", "no-brightness-and-contrast-2-0")]
    assert as_stored[2:4] == [spread(values([of_trial.raw(trial, data)], mean_dice)) for trial in trials]
    assert [checkpoint for checkpoint, _ in seen] == len(drift.LAMPS) * [trial.checkpoint for trial in trials]
    found = [statistics.histograms.tobytes() for _, statistics in seen[::2]]
    assert len(set(found)) == len(drift.LAMPS)  # what the network says depends on the lamp
    assert found[2] == trials[0].statistics(data, TEST, ()).histograms.tobytes()
