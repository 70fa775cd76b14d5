"""Images without labels: what a second round on pseudo-labels is worth, on NEU-Seg with few labelled images.

A teacher is trained on the labelled images and labels the other training images (`data_prep.pseudo_labels`). The
student, from the same first weights and by the same recipe, is trained on both. So that a longer training is not taken
for what the images are worth, a control is trained on the labelled images alone for as many steps as the student.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.quality.neu import copy_unlabelled, make_shards
from bench.quality.pretrained import DECODER, ENCODER, MEASURES, SETS, Judged, Sides, score_rows
from bench.quality.seeds import gain
from bench.quality.trial import TEST, VALIDATION, Trial, raw, trained_at, tuned
from data_prep.pseudo_labels.__main__ import main as label
from steel.metrics.scores import Outcome
from steel.shards.reader import ShardReader
from steel.shards.selection import pseudo_rounds

SIZE = 100
"""Images with labels."""
PASSES = 50
"""Of the teacher over them."""
LONGER = 2
"""Steps of the student and of the control, in those of the teacher."""
TEACHER, CONTROL, STUDENT = "teacher", "control", "student"
RULES: Mapping[str, Callable[[Trial, Path], Outcome]] = {"threshold 0.5": raw, "threshold tuning and TTA": tuned}


def run(
    source: Path, weights: Path, work: Path, *, seeds: Sequence[int], passes: int | None = None, size: int = SIZE
) -> str:
    """Train all sides for every seed; the section of the report as Markdown.

    Args:
        source: NEU-Seg.
        weights: file of the encoder's pretrained weights.
        work: where data and runs go.
        seeds: of the trainings.
        passes: of the teacher over the labelled images; `PASSES` when None.
        size: labelled images.
    """
    data, others = make_shards(source, work, num_train=size), copy_unlabelled(source, work, num_train=size)
    passes = passes or PASSES
    sides = Sides(data, work, str(weights.absolute()), passes, SETS["pretrained-neu"])
    trials: dict[str, list[Trial]] = {TEACHER: [], CONTROL: [], STUDENT: []}
    told = ["| seed | labelled | unsure, left out | duplicates, left out | pixels ignored |", "|---|---|---|---|---|"]
    for seed in seeds:
        teacher = sides.auto(seed, TEACHER)
        both = _label(teacher, data, others, work / f"pseudo-{passes}-{seed}")
        told.append(_row_of(both, seed))
        trials[TEACHER].append(teacher)
        trials[CONTROL].append(replace(sides, passes=LONGER * passes).auto(seed, CONTROL))
        trials[STUDENT].append(_student(replace(sides, data=both, passes=LONGER * passes), data, seed))
    judged = {
        how: {side: [rule(trial, data) for trial in those] for side, those in trials.items()}
        for how, rule in RULES.items()
    }
    about = f"{_about(data, others, passes, seeds)} {trained_at(trial for those in trials.values() for trial in those)}"
    return "\n".join([about, "", *told, "", *score_rows(trials, judged), "", *_gains(judged)])


def _label(teacher: Trial, data: Path, others: Path, out: Path) -> Path:
    """The shards with the other images as the teacher labels them; once."""
    words = ["--checkpoint", str(teacher.checkpoint), "--data", str(data), "--unlabelled", str(others)]
    if label([*words, "--out", str(out)]) != 0:
        sys.exit(1)
    return out


def _student(sides: Sides, labelled: Path, seed: int) -> Trial:
    """On shards with pseudo-labels: as many passes as see as many images as `sides.passes` over the labelled ones."""
    passes = sides.passes * _num_train(labelled) / _num_train(sides.data)
    return sides.auto(seed, STUDENT, ("--budget", f"{passes:.2f}passes"))  # the last of two counts


def _num_train(data: Path) -> int:
    return int(np.count_nonzero(~np.isin(ShardReader(str(data)).index.fold, (VALIDATION, TEST))))


def _row_of(both: Path, seed: int) -> str:
    reader = ShardReader(str(both))
    said = pseudo_rounds(reader.manifest)[-1]
    rows = reader.index.rows([said["fold"]])
    pixels = (reader.index.height[rows].astype(np.int64) * reader.index.width[rows]).sum()
    ignored = reader.index.ignored[rows].sum() / pixels
    return f"| {seed} | {said['images']} | {said['unsure_images']} | {said['duplicates']} | {ignored:.1%} |"


def _about(data: Path, others: Path, passes: int, seeds: Sequence[int]) -> str:
    index = ShardReader(str(data)).index
    num = np.bincount(np.asarray(index.fold), minlength=3)
    return (
        f"{num[2:].sum()} images with labels train, {len(list(others.iterdir()))} without can, {num[VALIDATION]} "
        f"validate, {num[TEST]} test; U-Net with {ENCODER} from ImageNet weights and a decoder of "
        f"{'-'.join(map(str, DECODER))} channels, `--preset auto`. The teacher sees the labelled images {passes} "
        f"times; control and student take {LONGER} times its steps, from the same first weights. Seeds "
        f"{', '.join(map(str, seeds))}. Scores in percent, of the test images."
    )


def _gains(judged: Judged) -> list[str]:
    lines = ["| student over | measure | points | 95 % over seeds | 95 % over test images |", "|---|---|---|---|---|"]
    for how, sides in judged.items():
        for side in (CONTROL, TEACHER):
            for name, measure in MEASURES.items():
                lines.append(f"| {side}, {how} | {name} | {gain(sides[STUDENT], sides[side], measure).text()} |")
    return lines
