"""Distillation: one network that learned from an ensemble's answers besides the labels, on hot-rolled steel.

The ensemble is of the networks that were trained alone, one for each seed. A student starts as the network of its seed
did and sees the same images in the same order: what differs is the teacher.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.quality.neu import make_shards
from bench.quality.pretrained import AUTO, DECODER, ENCODER, MEASURES, SETS, Judged, Sides, score_rows
from bench.quality.seeds import gain
from bench.quality.trial import Trial, raw, trained_at, tuned
from steel.cli import main as steel
from steel.inference.load import digest_source

OF_SET = SETS["pretrained-neu"]
ENSEMBLE, STUDENT = "ensemble", "student"
RULES = {
    "threshold 0.5": lambda trial, data: raw(trial, data),
    "threshold tuning and TTA": lambda trial, data: tuned(trial, data),
    "threshold tuning and TTA, no gate": lambda trial, data: tuned(trial, data, ("none",)),
}


def run(source: Path, weights: Path, work: Path, *, passes: int | None, seeds: Sequence[int]) -> str:
    """Train all sides; the section of the report as Markdown.

    Args:
        source: NEU-Seg.
        weights: file of the encoder's pretrained weights.
        work: where data and runs go.
        passes: times each training image is seen; as with `pretrained-neu` when None.
        seeds: of the trainings, two at least.
    """
    data = make_shards(source, work)
    sides = Sides(data, work, str(weights.absolute()), passes or OF_SET.passes, OF_SET)
    alone = [sides.auto(seed) for seed in seeds]
    of_seeds = "-".join(map(str, seeds))
    ensemble = _pack(alone, work / f"ensemble-{sides.passes}-{of_seeds}")
    teacher = ("--distill.teacher", str(ensemble.checkpoint))
    # The folder tells the teacher, whose file has one name for all: a student of another one is not taken for it.
    students = [sides.auto(seed, f"{STUDENT}-of-{of_seeds}", teacher) for seed in seeds]
    trials = {AUTO: alone, STUDENT: students, ENSEMBLE: [ensemble]}
    judged = {
        how: {side: [rule(trial, data) for trial in those] for side, those in trials.items()}
        for how, rule in RULES.items()
    }
    about = f"{_about(sides, seeds)} {trained_at([*alone, *students])}"
    return "\n".join([about, "", *score_rows(trials, judged), "", *_gains(judged, len(seeds))])


def _pack(members: Sequence[Trial], folder: Path) -> Trial:
    """The members in one file; once.

    Raises:
        InputError: the file there is of other members.
    """
    trial, asked = Trial(folder), [digest_source(str(member.checkpoint)) for member in members]
    if not trial.is_done(asked):
        folder.mkdir(parents=True, exist_ok=True)
        files = [str(member.checkpoint) for member in members]
        if steel(["ensemble", *files, "--out", str(trial.checkpoint)]) != 0:
            sys.exit(1)
        trial.finish(0, sum(member.processor_seconds for member in members), asked)
    return trial


def _about(sides: Sides, seeds: Sequence[int]) -> str:
    return (
        f"Images and folds as on hot-rolled steel above, {sides.passes} passes; U-Net with {ENCODER} from ImageNet "
        f"weights and a decoder of {'-'.join(map(str, DECODER))} channels, `--preset auto`. The ensemble has "
        f"{len(seeds)} networks, those trained alone; a student has one, and half of its loss is told from the "
        f"ensemble. Seeds {', '.join(map(str, seeds))}. Scores in percent, of the test images; processor seconds are "
        "of one thread. The one ensemble is held against the network of each seed, and intervals over seeds know "
        "nothing of what another ensemble would differ by."
    )


def _gains(judged: Judged, num: int) -> list[str]:
    lines = ["| | measure | points | 95 % over seeds | 95 % over test images |", "|---|---|---|---|---|"]
    for how, sides in judged.items():
        alone, students, together = sides[AUTO], sides[STUDENT], list(sides[ENSEMBLE]) * num
        pairs = {
            f"{STUDENT} over {AUTO}": (students, alone),
            f"{STUDENT} over {ENSEMBLE}": (students, together),
            f"{ENSEMBLE} over {AUTO}": (together, alone),
        }
        for names, (ours, theirs) in pairs.items():
            for name, measure in MEASURES.items():
                lines.append(f"| {names}, {how} | {name} | {gain(ours, theirs, measure).text()} |")
    return lines
