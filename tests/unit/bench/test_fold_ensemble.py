"""The benchmark of ensembles by folds: which images are in which, and the whole of it at a tiny size."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.quality import fold_ensemble, neu
from steel.checkpoint import load_checkpoint
from tests.shard_folder import defect_mask, make_shards, steel_image
from tests.tiny_pretrained import make_tiny


def test_every_image_that_does_not_test_is_in_one_of_the_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n}.jpg" for n in range(11)]
    monkeypatch.setattr(neu, "_deal", lambda source, work, seed: (names[:3], names[3:4], names[4:]))
    dealt: dict[str, int] = {}

    def note(source: Path, out: Path, fold_of: Mapping[str, int]) -> None:
        dealt.update(fold_of)

    monkeypatch.setattr(neu, "_shard_as_dealt", note)
    assert neu.make_folds(tmp_path, tmp_path / "work", 3) == tmp_path / "work" / "folds-3"
    assert sorted(name for name, fold in dealt.items() if fold == 1) == names[:3]
    assert dealt.keys() == set(names)
    assert Counter(dealt.values()) == {0: 3, 1: 3, 2: 3, 3: 2}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_the_ensemble_is_of_a_network_for_each_fold_and_judged_on_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [steel_image(n, 64, 64) for n in range(30)]
    masks = [defect_mask(n, 64, 64, num_classes=2) for n in range(30)]
    alone, folds = (
        make_shards(tmp_path / name, images, masks, num_classes=2, folds=number)
        for name, number in (("alone", 3), ("folds", 5))
    )
    monkeypatch.setattr(fold_ensemble, "make_shards", lambda source, work: alone)
    monkeypatch.setattr(fold_ensemble, "make_folds", lambda source, work, number: folds)
    weights = make_tiny(tmp_path, monkeypatch)

    def run() -> str:
        return fold_ensemble.run(tmp_path, weights, tmp_path / "work", passes=2, seeds=(0,))

    text = run()
    assert "on folds of 6, 6, 6, 6 images" in text and "auto alone has 10 images that validate" in text
    rows = [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("| ")]
    sides = ["auto, threshold 0.5", "ensemble by folds, threshold 0.5", "its first network, threshold 0.5"]
    tuned = [f"{side}, threshold tuning and TTA" for side in ("auto", "ensemble by folds")]
    assert rows[1:6] == [*sides, *tuned]
    assert rows[7:] == [side for side in (sides[0], sides[2], tuned[0]) for _ in range(3)]
    checkpoint = load_checkpoint(tmp_path / "work" / "folds-2-0" / "model.safetensors")
    assert (checkpoint.members, checkpoint.folds["test"]) == (4, [1])
    member = load_checkpoint(tmp_path / "work" / "folds-2-0" / "fold-0" / "model.safetensors")
    assert (member.folds["train"], member.folds["test"]) == ([2, 3, 4], [1])
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("model.safetensors")}
    assert run() == text
    assert {path: path.stat().st_mtime_ns for path in done} == done  # nothing was trained twice
