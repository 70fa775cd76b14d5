"""What the page says of an ensemble's members."""

import csv
import html
import json
from pathlib import Path

import numpy as np
import pytest

from steel.decision import ClassDecision, Decision
from steel.metrics.scores import decide
from steel.metrics.statistics import EvaluationStatistics
from steel.reports.members import Judged, member_metrics
from tests.ensemble_page import NUM_IMAGES, write_ensemble_page
from tests.known_faults import SMALLEST_SEEN, true_defects
from tests.page_numbers import check_numbers


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    write_ensemble_page(folder)
    return folder / "report"


def test_gains_are_those_of_what_a_member_does_not_see(out: Path) -> None:
    """Worked by hand: Dice is 1 or 0, and a member that answers nothing of a class is right where it is not there."""
    found = json.loads((out / "metrics.json").read_text())["ensemble"]
    areas = np.array([true_defects(n).sum(axis=(1, 2)) for n in range(NUM_IMAGES)])
    seen = (areas >= SMALLEST_SEEN) & [True, False, True]
    gains = [0, seen[:, 2].sum() / areas.size, seen.sum() / areas.size]
    assert [m["name"] for m in found["members"]] == ["as-good", "half-blind", "blind"]
    for member, gain in zip(found["members"], gains, strict=True):
        assert member["gain"]["mean_dice"]["difference"] == pytest.approx(gain)
        low, high = member["gain"]["mean_dice"]["interval"]
        assert low <= gain <= high
    assert [m["gain"]["mean_dice"]["so"] for m in found["members"]] == ["within the noise", "better", "better"]
    assert found["sentence"] == (
        "the ensemble is better than 2 of its 3 members beyond the noise; over the best of them, "
        "as-good, it gains +0.0000 of mean Dice (95 %: +0.0000 to +0.0000)"
    )


def test_every_number_of_the_page_is_one_of_the_files(out: Path) -> None:
    page = (out / "report.html").read_text()
    with (out / "per_image.csv").open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    metrics = json.loads((out / "metrics.json").read_text())
    assert check_numbers(page, metrics, rows=rows, known={"up to 3 regions", "1", "2", "3", "4", "5", "6"}) > 300
    assert "does not hold the decision of every member" in html.unescape(page)
    for i in range(3):
        assert f'data-from="/ensemble/members/{i}/gain/mean_dice/difference"' in page


def test_what_too_few_images_leave_open_is_no_noise() -> None:
    """Of five the ensemble finds all defects, its member none."""
    histograms = np.zeros((5, 1, 2, 256), np.int64)
    histograms[:, 0, 0, 0], histograms[:, 0, 1, 200] = 90, 10
    found = EvaluationStatistics(np.arange(5), histograms, np.full((5, 2), 255, np.uint8))
    good, blind = (
        Judged(name, found, decide(found, Decision((ClassDecision(threshold, 0),))))
        for name, threshold in (("ensemble", 128), ("blind", 255))
    )
    (member,) = member_metrics(good, [blind], ["pit"])["members"]
    for gain in member["gain"].values():
        assert gain == {"difference": 1.0, "interval": None, "so": "too few to tell"}
