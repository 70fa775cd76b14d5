"""The model card says of known numbers what they mean, and every number in it is one of the metrics'."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steel.checkpoint import Checkpoint, read_header, save_checkpoint
from steel.config import NetworkConfig
from steel.decision import default_decision
from steel.metrics.scores import decide
from steel.metrics.sizes import SizeBin
from steel.metrics.statistics import EvaluationStatistics
from steel.reports.details import standing_per_class
from steel.reports.evaluation import build_metrics
from steel.reports.html.figures import Figures
from steel.reports.model_card import model_card
from steel.reports.sections.verdict import verdict_section
from steel.reports.strips import count_strips

NAMES = ("pit", "scratch")


def statistics(num: int = 60) -> EvaluationStatistics:
    """Pits in half of the images, all found; scratches in three, none found. 100 pixels an image, 10 of a defect."""
    histograms = np.zeros((num, 2, 2, 256), np.int64)
    histograms[:, :, 0, 0] = 100
    histograms[::2, 0, 0, 0], histograms[::2, 0, 1, 255] = 90, 10
    histograms[:3, 1, 0, 0], histograms[:3, 1, 1, 0] = 90, 10
    label_probs = np.zeros((num, 3), np.uint8)
    label_probs[::2, :2] = 255
    return EvaluationStatistics(np.arange(num), histograms, label_probs)


PUBLISHED = {
    "architecture": "resnet18",
    "source": "smp-hub/resnet18.imagenet",
    "sha256": "ab" * 32,
    "licence": "BSD-3-Clause",
    "fitted": 99,
    "tensors": 100,
}


def card(
    tmp_path: Path,
    weights: dict[str, Any] | None = None,
    sizes: Sequence[SizeBin] = (),
    names: tuple[str, str] = NAMES,
    of: EvaluationStatistics | None = None,
) -> str:
    network = NetworkConfig("Unet", "resnet18", 2, 1)
    provenance = {"data_digest": "ab12", "steel": "0.1.0", "encoder_weights": weights}
    tensors = {"weight": torch.zeros(1, 4, 3), "running_mean": torch.zeros(1, 4)}
    folds = {"train": [2, 3], "tuning": [0], "test": [1]}
    path = tmp_path / "model.safetensors"
    checkpoint = Checkpoint(network, names, (0.5,), (0.2,), tensors, default_decision(2), folds, provenance)
    save_checkpoint(path, checkpoint)
    metrics = build_metrics(of or statistics(), default_decision(2), folds=[1], role="test", class_names=names)
    return model_card(read_header(path), metrics, sizes)


def test_sizes_that_are_mostly_missed_are_named(tmp_path: Path) -> None:
    found = {8: (4, 0), 16: (3, 1), 64: (5, 4), 128: (5, 0)}  # by least area: defects, found; none of 32 to 63 pixels
    sizes = [SizeBin(area, 2 * area, *counts, dice=0.0, pixel_recall=0.0) for area, counts in found.items()]
    line = (
        "- small defects are missed: of 7 with fewer than 32 pixels (all that an image has of a class) 1 were found\n"
    )
    assert line in card(tmp_path, sizes=sizes)
    assert "small defects" not in card(tmp_path, sizes=sizes[2:])


def test_where_every_size_is_missed_it_is_not_the_small_ones(tmp_path: Path) -> None:
    sizes = [
        SizeBin(area, 2 * area, *of, dice=0.0, pixel_recall=0.0) for area, of in {8: (4, 0), 16384: (9, 2)}.items()
    ]
    text = card(tmp_path, sizes=sizes)
    assert "- defects of every size are missed: of 13 (each all that an image has of a class) 2 were found\n" in text
    assert "small defects" not in text and "32,768" not in text


def test_what_fails_is_named(tmp_path: Path) -> None:
    text = card(tmp_path)
    failures = text.split("## Known failures")[1].split("##")[0].strip().splitlines()
    assert failures == [
        "- scratch is never predicted, though 3 images have it",
        "- scratch: its scores say little, as only 3 images have it",
    ]
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines() if line.startswith("|")]
    assert rows[2] == ["pit", "30", "30", "1.0000", "1.0000", "1.0000"]
    assert rows[3] == ["scratch", "3", "0", "0.9500", "0.0000", "0.0000"]  # 57 of 60 images are rightly left empty
    assert "- folds by use: train: 2, 3; tuning: 0; test: 1" in text and "ab12" in text
    assert "12 parameters" in text  # running statistics are not trained


@pytest.mark.parametrize(
    ("num_groups", "is_found", "tone", "standing", "told"),
    [
        (6, True, "warn", "works: better than never answering it, beyond what chance gives", None),
        (5, True, "warn", "is not shown to work: so few images, or groups, show nothing", "not shown to be better"),
        (5, False, "bad", "is never answered: the model finds none of it", "no better"),
    ],
)
def test_few_groups_show_nothing_and_nothing_found_is_no_better(
    num_groups: int, is_found: bool, tone: str, standing: str, told: str | None, tmp_path: Path
) -> None:
    """Of the verdict in the card and on the page, and of pits' standing; in each group half of the images have one."""
    images = replace(statistics(), groups=np.repeat(np.arange(num_groups), 60 // num_groups))
    if not is_found:
        images.histograms[::2, 0, 1, 255], images.histograms[::2, 0, 1, 0] = 0, 10
    line = f"- over all classes {told} than predicting nothing"
    assert (line in card(tmp_path, of=images)) == (told is not None)
    metrics = build_metrics(images, default_decision(2), folds=[1], role="test", class_names=NAMES)
    outcome = decide(images, default_decision(2))
    metrics["standing_per_class"] = standing_per_class(outcome, NAMES, metrics["verdict"])
    metrics["strips"] = count_strips(outcome, NAMES)
    assert metrics["standing_per_class"]["pit"]["words"] == standing
    assert f'class="verdict {tone}"' in str(verdict_section(Figures(metrics)))


def test_scores_of_images_that_chose_the_weights_are_said_to_flatter(tmp_path: Path) -> None:
    card(tmp_path)
    decision, found = default_decision(2), statistics()
    answers = decide(found, decision)
    metrics = build_metrics(found, decision, folds=[0], role="tuning", class_names=NAMES, cross_fitted=answers)
    text = model_card(read_header(tmp_path / "model.safetensors"), metrics, [])
    assert "scores as tuned flatter, and those cross-fitted a little, as these images chose among the weights." in text


def test_a_class_that_the_table_has_predictions_of_is_not_said_to_have_none(tmp_path: Path) -> None:
    card(tmp_path)
    decision, tuned = default_decision(2), statistics()
    tuned.histograms[0, 1, 1, [0, 255]] = 0, 10  # as tuned one scratch is found, cross-fitted none
    answers = decide(statistics(), decision)
    metrics = build_metrics(tuned, decision, folds=[0], role="tuning", class_names=NAMES, cross_fitted=answers)
    text = model_card(read_header(tmp_path / "model.safetensors"), metrics, [])
    assert "scratch is never predicted, though" not in text
    assert "- scratch is never predicted by cross-fitted decisions, though 3 images have it\n" in text


def test_names_are_no_markup(tmp_path: Path) -> None:
    text = card(tmp_path, names=("a|b_c", "<b>*x*</b> &lt; [_y_](z)"))
    told = r"\<b\>\*x\*\</b\> \&lt; \[\_y\_\](z)"
    assert f"- {told} is never predicted, though 3 images have it" in text
    assert rf"2 classes (a\|b_c, {told})" in text and text.splitlines()[2].count(told) == 1
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {8}
    assert [row[1].strip() for row in rows[2:4]] == [r"a\|b_c", told]


def test_where_the_weights_are_from(tmp_path: Path) -> None:
    assert "first weights: random" in card(tmp_path)
    told = "resnet18, 99 of 100 tensors from smp-hub/resnet18.imagenet (sha256 abababab"
    assert f"first weights: {told}" in card(tmp_path, PUBLISHED)
    assert "; licence: BSD-3-Clause" in card(tmp_path, PUBLISHED)
