"""Where 90 % of the images are clean: whether `--preset auto` judges, weighs, draws and crops as it should there.

Synthetic strips, which no other question uses. What a set without any clean image wants is asked by `auto_choice.py`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.quality.auto_choice import FOR_CLEAN, LATER_ABSENT, WEIGHED, against_auto, train_variants
from bench.quality.pretrained import DECODER, ENCODER, DataSet, Sides
from bench.quality.trial import TEST, VALIDATION, both_phases, trained_at
from data_prep.__main__ import main as shard
from steel.shards.reader import ShardReader
from steel.synthetic.dataset import synthesize

NUM_IMAGES, FOLDS, SIZE = 1600, 4, "64x400"
SHARES, DEFECTIVE = (0.03, 0.02, 0.04, 0.03), 0.1
"""Of the images: those with each class, none so few that `auto` takes it for rare, and those with any."""
OF_SET = DataSet("Synthetic strips", 8, (64, 128), (64, 128), 16, "mean IoU", 0)
VARIANTS = {
    "absent classes judged": both_phases("loss.absent", "1"),
    "absent classes judged last": LATER_ABSENT,
    "no classification loss": both_phases("loss.classification", "0"),
    "five times the classification loss": both_phases("loss.classification", "0.1"),
    WEIGHED: (),
    "natural order": FOR_CLEAN["natural order"],
    "crops of a third, drawn anywhere": ("--phases.0.crop", "64", "128", "--phases.0.sampling.defect-crop", "0"),
    "crops of a third, half of them moved onto a defect": (
        *("--phases.0.crop", "64", "128", "--phases.0.sampling.defect-crop", "0.5"),
    ),
    "a boundary term of 0.5": both_phases("loss.boundary", "0.5"),
}
"""Options on top of `--preset auto`."""


def run(
    weights: Path,
    work: Path,
    *,
    passes: int | None,
    seeds: Sequence[int],
    variants: Sequence[str],
    once: Sequence[str] = (),
) -> str:
    """Train `auto` and the variants; the section of the report as Markdown.

    Args:
        weights: file of the encoder's pretrained weights.
        work: where data and runs go.
        passes: times each training image is seen; 8 when None.
        seeds: of the trainings.
        variants: names in `VARIANTS`.
        once: more of them, which are trained with the first seed alone.
    """
    data = make_shards(work)
    sides = Sides(data, work, str(weights.absolute()), passes or OF_SET.passes, OF_SET)
    trials = train_variants(sides, seeds, variants, once, VARIANTS)
    left_out = [name for name in VARIANTS if name not in trials]
    return "\n".join(
        [
            f"{_about(data)} U-Net with {ENCODER} from ImageNet weights and a decoder of "
            f"{'-'.join(map(str, DECODER))} channels, {sides.passes} passes; seeds {', '.join(map(str, seeds))}, or "
            "the first, which is compared with `auto`'s first. IoU and Dice in percent, of the test images."
            + f" {trained_at(trial for those in trials.values() for trial in those)}"
            + (f" Not measured: {'; '.join(left_out)}." if left_out else ""),
            "",
            *against_auto(trials, data),
        ]
    )


def make_shards(work: Path) -> Path:
    """Fold 0 validates, fold 1 tests, the others train; made once."""
    out = work / "shards"
    if not (out / "manifest.json").exists():
        made = work / "images"
        synthesize(made, NUM_IMAGES, 1, seed=31, class_share=SHARES, defect_share=DEFECTIVE)
        given = ("--images", str(made / "train_images"), "--labels", str(made / "train.csv"))
        if shard([*given, "--out", str(out), "--folds", str(FOLDS), "--resize", SIZE]) != 0:
            sys.exit(1)
    return out


def _about(data: Path) -> str:
    index = ShardReader(str(data)).index
    fold, has = np.asarray(index.fold), np.asarray(index.areas) > 0
    parts = {
        "train": ~np.isin(fold, (VALIDATION, TEST)),
        "validate": fold == VALIDATION,
        "test": fold == TEST,
    }
    told = [
        f"{rows.sum()} {part}, {(~has[rows].any(axis=1)).sum()} of them clean and "
        f"{', '.join(map(str, has[rows].sum(axis=0)))} with each class"
        for part, rows in parts.items()
    ]
    nothing = 100 * (~has[parts["test"]]).mean()
    return f"Synthetic strips of {SIZE}: {'; '.join(told)}. Answering nothing gets {nothing:.2f} mean Dice."
