"""The page of a cross-validation: an evaluation's, with the folds beside each other."""

import csv
import html
import json
from pathlib import Path

import numpy as np
import pytest

from tests.crossval_page import FOLDS, NUM_IMAGES, write_crossval_page
from tests.page_numbers import check_numbers
from tests.shard_folder import defect_mask


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crossval")
    write_crossval_page(folder)
    return folder / "report"


def test_each_fold_has_its_own_scores(out: Path) -> None:
    """Worked by hand: a mask is found to the pixel or not at all, so that Dice is 1 or 0."""
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["per_fold"]) == ["0", "1", "2", "3"]
    for fold in range(FOLDS):
        rows = range(fold, NUM_IMAGES, FOLDS)
        defects = np.array([[bool((defect_mask(n, num_classes=2) >> k & 1).any()) for k in (0, 1)] for n in rows])
        seen = np.array([n // FOLDS % 4 >= fold for n in rows])
        right = ~defects | seen[:, None]
        found = metrics["per_fold"][str(fold)]
        assert found["images"] == len(rows)
        assert found["mean_dice"] == pytest.approx(right.mean())
        assert found["mean_dice_all_empty"] == pytest.approx((~defects).mean())
        assert found["true_images_per_class"] == {f"class {k + 1}": defects[:, k].sum() for k in (0, 1)}
    assert metrics["strips"]["any"]["found"] == sum(
        defect_mask(n, num_classes=2).any() and n // FOLDS % 4 >= n % FOLDS for n in range(NUM_IMAGES)
    )


def test_the_page_shows_them_and_says_what_it_is(out: Path) -> None:
    page = (out / "report.html").read_text()
    with open(out / "per_image.csv", newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    assert len(rows) == NUM_IMAGES
    metrics = json.loads((out / "metrics.json").read_text())
    assert check_numbers(page, metrics, rows=rows, known={f"fold {k}" for k in range(FOLDS)}) > 100
    for fold in range(FOLDS):
        assert f'data-from="/per_fold/{fold}/mean_dice"' in page
    words = html.unescape(page)
    for said in (
        "each image judged by the member that has not seen it",
        "found on all folds",
        "Cross-validation of a defect model",
        "At the decision found on the other folds",
    ):
        assert said in words
    for left_out in ("Gallery", "Labels that may be wrong"):
        assert left_out not in words
