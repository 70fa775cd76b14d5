"""Each picture of a cross-validation is what the member says that has not seen the image."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from steel.decision import ClassDecision, Decision, apply_decision
from steel.distributed.runtime import start
from steel.images.bitmask import pack_masks
from steel.inference.predictor import Predictor
from steel.metrics.scores import Outcome
from steel.reports.crossval_report import ToSee
from steel.reports.gallery import MISSES, RANDOM, TYPICAL
from steel.shards.reader import ShardReader
from steel.thresholds.nested import Nested
from tests.random_members import make_member
from tests.shard_folder import defect_mask, make_shards
from train.engine.fold_pictures import keep_of_folds

NUM_IMAGES = 60


@pytest.mark.usefixtures("fresh_accelerate")
def test_each_image_is_shown_by_the_member_of_its_fold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 64), np.uint8) for _ in range(NUM_IMAGES)]
    masks = [defect_mask(n, num_classes=2) for n in range(NUM_IMAGES)]
    reader = ShardReader(make_shards(tmp_path / "shards", images, masks, num_classes=2, folds=3))
    members = {fold: make_member(fold) for fold in (0, 1)}  # fold 2 is kept for a test
    decisions = {0: Decision((ClassDecision(110), ClassDecision(140))), 1: Decision((ClassDecision(150),) * 2)}
    judged = np.flatnonzero(np.asarray(reader.index.fold) != 2)
    nothing = Outcome(judged, np.zeros((len(judged), 2, 3), np.int64), np.zeros((len(judged), 3), bool))
    to_see = ToSee({MISSES: [4, 3, 10]}, frozenset({21}))
    progress: list[tuple[int, int]] = []

    kept = keep_of_folds(
        *(members, Nested(nothing, decisions), to_see, reader, start("no", cpu=True)),
        tta=("hflip",),
        pixels_per_pass=None,
        workers=0,
        on_progress=lambda done, total: progress.append((done, total)),
    )

    assert kept.rows[MISSES] == [4, 3, 10]
    assert len(kept.rows[TYPICAL]) == len(kept.rows[RANDOM]) == 12
    assert progress[-1][0] == progress[-1][1] < 40, "only what is shown or may be doubted is predicted"
    assert not {row for rows in kept.rows.values() for row in rows if row % 3 == 2}
    said = set()
    for row in (3, 4, 10):
        fold = row % 3
        predictor = Predictor.from_checkpoint(members[fold], device="cpu", precision="no", tta=("hflip",))
        (expected,) = predictor.predict([images[row]])
        found = kept.layers[row]
        assert np.array_equal(found.probability, expected.mask_probs.max(axis=0))
        assert np.array_equal(
            found.predicted, pack_masks(apply_decision(decisions[fold], expected.mask_probs, expected.label_probs))
        )
        said.add(cv2.countNonZero(found.predicted))
    assert len(said) == 3
