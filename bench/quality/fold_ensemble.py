"""An ensemble by folds: the networks of a cross-validation in one file, on hot-rolled steel.

Each network leaves out another fold, which validates it; together they have trained on every image that does not test.
The network that is trained alone leaves out fewer images. Its thresholds are tuned on these, those of the ensemble on
what each network says of its own fold, by `train.crossval`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.quality.neu import make_folds, make_shards
from bench.quality.pretrained import AUTO, HALF, MEASURES, SETS, Sides, score_rows
from bench.quality.seeds import gain
from bench.quality.trial import FLIPS, TEST, VALIDATION, Trial, raw, trained_at, tuned
from steel.checkpoint import load_checkpoint
from steel.metrics.scores import Outcome, decide
from steel.shards.reader import ShardReader
from train.engine.run_folder import member_folder

OF_SET = SETS["pretrained-neu"]
FOLDS = 4
ENSEMBLE, MEMBER = "ensemble by folds", "its first network"
TUNED = "threshold tuning and TTA"


def run(source: Path, weights: Path, work: Path, *, passes: int | None, seeds: Sequence[int]) -> str:
    """Train both sides for every seed; the section of the report as Markdown.

    Args:
        source: NEU-Seg.
        weights: file of the encoder's pretrained weights.
        work: where data and runs go.
        passes: times each training sees its images; as with `pretrained-neu` when None.
        seeds: of the trainings.
    """
    data, folds = make_shards(source, work), make_folds(source, work, FOLDS)
    sides = Sides(data, work, str(weights.absolute()), passes or OF_SET.passes, OF_SET)
    trials = {
        AUTO: [sides.auto(seed) for seed in seeds],
        ENSEMBLE: [replace(sides, data=folds).cross_validation(seed) for seed in seeds],
    }
    first = [Trial(member_folder(trial.folder, VALIDATION)) for trial in trials[ENSEMBLE]]
    judged = {
        HALF: {side: [raw(trial, data) for trial in those] for side, those in trials.items()},
        TUNED: {
            AUTO: [tuned(trial, data) for trial in trials[AUTO]],
            ENSEMBLE: [_as_shipped(trial, data) for trial in trials[ENSEMBLE]],
        },
    }
    judged[HALF][MEMBER] = [raw(trial, data) for trial in first]
    taken = {**trials, MEMBER: trials[ENSEMBLE]}
    lines = ["| ensemble over | measure | points | 95 % over seeds | 95 % over test images |", "|---|---|---|---|---|"]
    for how, outcomes in judged.items():
        for side in [side for side in outcomes if side != ENSEMBLE]:
            for name, measure in MEASURES.items():
                lines.append(f"| {side}, {how} | {name} | {gain(outcomes[ENSEMBLE], outcomes[side], measure).text()} |")
    about = f"{_about(sides, folds, seeds)} {trained_at([*trials[AUTO], *trials[ENSEMBLE]])}"
    return "\n".join([about, "", *score_rows(taken, judged), "", *lines])


def _as_shipped(trial: Trial, data: Path) -> Outcome:
    """The test fold under the decision that is in the checkpoint."""
    decision = load_checkpoint(trial.checkpoint).decision
    assert decision is not None  # train.crossval finds one
    return decide(trial.statistics(data, TEST, FLIPS), decision)


def _about(sides: Sides, folds: Path, seeds: Sequence[int]) -> str:
    num = np.bincount(np.asarray(ShardReader(str(folds)).index.fold))
    validates = ShardReader(str(sides.data)).index.rows([VALIDATION])
    sizes = [int(n) for fold, n in enumerate(num) if fold != TEST]
    return (
        f"Images, network, weights and test as on hot-rolled steel above, {sides.passes} passes, `--preset auto`. The "
        f"ensemble is of {FOLDS} networks, `train.crossval --folds.test {TEST}` on folds of "
        f"{', '.join(map(str, sizes))} images, each of which validates one network that the others train; auto alone "
        f"has {len(validates)} images that validate. Seeds {', '.join(map(str, seeds))}. Scores in percent, of the "
        "test images; processor seconds are of one thread, and of the ensemble and its first network those of all "
        f"{FOLDS}."
    )
