"""The page of a cross-validation: an evaluation's, with the folds beside each other."""

import csv
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from steel.reports.evaluation import format_table
from steel.reports.gallery import PER_KIND
from tests.crossval_page import FOLDS, NUM_IMAGES, UNLABELLED, write_crossval_page
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
        right = (~defects | seen[:, None]) & [[n not in UNLABELLED, True] for n in rows]
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
    rows = {row["image_id"]: row for row in read_csv(out / "per_image.csv")}
    assert len(rows) == NUM_IMAGES
    metrics = json.loads((out / "metrics.json").read_text())
    lines, known = read_csv(out / "label_doubts.csv"), {"up to 3 regions", "1", "2", "3", "4", "5", "6"}
    known |= {f"fold {k}" for k in range(FOLDS)}
    assert check_numbers(page, metrics, rows=rows, lines=lines, known=known) > 100
    for fold in range(FOLDS):
        assert f'data-from="/per_fold/{fold}/mean_dice"' in page
    words = html.unescape(page)
    for said in (
        "each image judged by the member that has not seen it",
        "each fold chose the weights of the member that it judges: these scores flatter a little",
        "found on all folds",
        "Cross-validation of a defect model",
        "At the decision found on the other folds",
    ):
        assert said in words
    assert "held out" not in words and "no say" not in words


def test_members_whose_teacher_has_seen_what_they_judge_are_not_called_unseeing(tmp_path: Path) -> None:
    metrics = write_crossval_page(tmp_path, "train")
    assert (metrics["role"], metrics["verdict"]["basis"]) == ("train", "cross-fitted, but trained on")
    words = "a checkpoint that members learned from was TRAINED ON folds that they judge: these scores flatter"
    assert format_table(metrics).splitlines()[0] == f"64 images, folds 0, 1, 2, 3 ({words}), TTA none"
    page = html.unescape((tmp_path / "report" / "report.html").read_text())
    assert words in page and "each image judged by the member of its fold, with the decision of the other" in page
    assert "has not seen" not in page and "a little" not in page


def test_the_gallery_shows_the_worst_first_by_the_member_of_their_fold(out: Path) -> None:
    rows = read_csv(out / "per_image.csv")
    page = (out / "report.html").read_text()
    shots = re.findall(r'<figure class="shot[^>]*id="image-(\d+)" data-kinds="([^"]*)"', page)
    worst = [int(row) for row, kinds in shots if "worst" in kinds.split("|")]
    missed = [n for n in range(NUM_IMAGES) if defect_mask(n, num_classes=2).any() and n // FOLDS % 4 < n % FOLDS]
    wrong = {*missed, *UNLABELLED}
    assert set(worst) == wrong and len(wrong) <= PER_KIND["worst"]
    assert [f"images/{row:04d}.png" for row in worst] == [row["image_id"] for row in rows[: len(wrong)]]
    assert {int(row) for row, kinds in shots if "misses" in kinds.split("|")} == set(missed)
    for row in worst:
        caption = html.unescape(page[page.index(f'id="image-{row}"') :].split("</figcaption>")[0])
        assert re.search(rf"by the member of fold <data[^>]*>{row % FOLDS}<", caption)
    assert all((out / row["overlay"]).is_file() for row in rows[: len(wrong)])


def test_labels_in_doubt_are_those_that_nobody_made(out: Path) -> None:
    lines = read_csv(out / "label_doubts.csv")
    assert {line["image_id"] for line in lines} == {f"images/{row:04d}.png" for row in UNLABELLED}
    assert {(line["claim"], line["class"], line["pixels"]) for line in lines} == {("not labelled", "class 1", "64")}
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["label_doubts"] == {"images": 2, "regions": 2}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
