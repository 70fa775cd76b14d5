"""Where users start: `--preset auto` on a pretrained encoder against the plain loop on the same one, and against the
preset for Severstal as a user would carry it over.

All sides have the same network, training images and passes; each set's folds keep together what shows one thing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.quality.baseline import train_plain
from bench.quality.seeds import Measure, gain, mean_dice, mean_dice_positive, miou, spread, values
from bench.quality.trial import (
    TEST,
    VALIDATION,
    Program,
    Trial,
    at_one_half,
    both_phases,
    raw,
    train,
    trained_at,
    tuned,
)
from steel.checkpoint import load_checkpoint
from steel.metrics.scores import Outcome
from steel.precision import choose_precision
from steel.shards.reader import ShardReader

ENCODER, DECODER = "tu-tf_efficientnet_lite0", (64, 48, 32, 24, 16)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
"""Of the plain loop, where a set names no others."""
PLAIN_BATCH = 8
"""The plain loop's, as `auto` chooses on all of these sets: as many steps on both sides."""
MEASURES: Mapping[str, Measure] = {"mean IoU": miou, "mean Dice": mean_dice, "positive Dice": mean_dice_positive}
Judged = Mapping[str, Mapping[str, Sequence[Outcome]]]
"""Outcomes by the kind of thresholds, then by the side, one for each of its seeds."""
AUTO, PLAIN, SEVERSTAL = "auto", "plain loop", "preset severstal"
PLAIN_ON_ALL = "plain loop on the validation images, too"
"""What its user has instead of images to tune on."""
HALF = "threshold 0.5"
ALL_STRIPS = "pretrained-strips-all"
OWN_LENGTH = "pretrained-bsdata-long"


@dataclass(frozen=True)
class DataSet:
    """A set of images, and what is asked of it."""

    images: str
    """What they are, in words."""
    passes: int
    """Times each training image is seen: a training costs some five minutes of a core."""
    crop: tuple[int, int]
    """Of the preset's first phase for Severstal: as large a part of an image as there, or what a user would choose."""
    plain_crop: tuple[int, int]
    """The plain loop's: that, or as much of an image as `auto` takes, where that is far more."""
    batch_size: int
    """The preset's; the plain loop's is `PLAIN_BATCH`."""
    measure: str
    """Which of `MEASURES` the aim is in; it chooses the plain loop's rate, too."""
    aim: float
    """Points over the plain loop."""
    rates: tuple[float, ...] = RATES
    """The plain loop's; the best of them on the validation images is its own with all seeds."""
    rate_seeds: int = 1
    """The first so many seeds choose that, by their mean."""
    others: tuple[str, ...] = (PLAIN, PLAIN_ON_ALL, SEVERSTAL)
    """Sides beside auto's."""
    is_own_length: bool = False
    """Whether `passes` is what `auto` makes where nobody tells it a budget, and it is told none here."""


SETS: Mapping[str, DataSet] = {
    "pretrained-neu": DataSet(
        "Hot-rolled steel of NEU-Seg",
        *(8, (128, 128), (192, 192), 16, "mean IoU", 2),  # the widest that smp's U-Net takes of 200 pixels
        rates=RATES[1:],
        others=(PLAIN, PLAIN_ON_ALL),
    ),
    "pretrained-bsdata": DataSet(
        "Machined steel with small pits, of BSData", 16, (128, 256), (128, 256), 8, "positive Dice", 3
    ),
    "pretrained-strips": DataSet(
        "Synthetic strips, rendered for real masks of Severstal at a quarter of their height and width, more of the "
        "rare classes than there are by nature",
        *(8, (64, 128), (64, 384), 16, "mean IoU", 2),  # the widest that smp's U-Net takes of 400 pixels
    ),
    ALL_STRIPS: DataSet(
        "Synthetic strips, rendered for the real masks of every image of Severstal whose masks are known, at a quarter "
        "of their height and width",
        *(1, (64, 128), (64, 384), 16, "mean IoU", 2),
        rates=RATES[:3],
        rate_seeds=3,  # with some of them the loop answers one class far too often, at one rate or another
        others=(PLAIN,),
    ),
    OWN_LENGTH: DataSet(
        "The same images of BSData, for as many passes as auto makes by itself",
        *(127, (128, 256), (128, 256), 8, "positive Dice", 3),
        rates=RATES[:3],
        others=(PLAIN, PLAIN_ON_ALL),
        is_own_length=True,
    ),
}
"""By the name of their section."""


@dataclass(frozen=True)
class Sides:
    """How the sides are trained on a set's shards, each training in one process with one thread."""

    data: Path
    work: Path
    weights: str
    passes: int
    of_set: DataSet

    def auto(self, seed: int, name: str = AUTO, options: Sequence[str] = ()) -> Trial:
        """`--preset auto`, whatever it chooses, with the network and the passes of the others."""
        is_told = not (self.of_set.is_own_length and self.passes == self.of_set.passes)
        length = ["--budget", f"{self.passes}passes"] if is_told else []
        return self._ours("auto", seed, name, [*length, *options])

    def cross_validation(self, seed: int) -> Trial:
        """The same for each fold that does not test, which validates it; all of them in one file."""
        options = ["--budget", f"{self.passes}passes"]
        return self._ours("auto", seed, "folds", options, program="train.crossval")

    def severstal(self, seed: int, name: str = "severstal", options: Sequence[str] = ()) -> Trial:
        """The preset for Severstal, with its two phases in their proportion on these images, and at half of its rates:
        by the square root from its batches to those of 16."""
        share = self.passes * 8 / 38
        full = round(share) or share
        carried_over = [
            *("--phases.0.epochs", f"{self.passes - full:g}", "--phases.1.epochs", f"{full:g}"),
            *("--phases.0.crop", *map(str, self.of_set.crop), "--validation.every-epochs", "2"),
            *both_phases("batch-size", str(self.of_set.batch_size)),
            *both_phases("micro-batch", str(min(8, self.of_set.batch_size))),
            *("--phases.0.lr", "1e-3", "--phases.1.lr", "1e-4"),
        ]
        return self._ours("severstal", seed, name, [*carried_over, *options])

    def plain(self, seed: int, lr: float, *, on_all: bool = False) -> Trial:
        """The plain loop at one rate; on all images but the test's, or without the validation's as the others."""
        torch.set_num_threads(1)
        crop = "{}x{}".format(*self.of_set.plain_crop)
        return train_plain(
            self.work / f"plain-{'on-all-' * on_all}{lr:g}-{crop}-{self.passes}-{seed}",
            self.data,
            encoder=ENCODER,
            decoder=DECODER,
            passes=self.passes,
            crop=self.of_set.plain_crop,
            seed=seed,
            batch_size=PLAIN_BATCH,
            lr=lr,
            weights=self.weights,
            held_out=(TEST,) if on_all else (VALIDATION, TEST),
        )

    def rate_trials(self, seeds: Sequence[int]) -> dict[float, list[Trial]]:
        """The plain loop's at each of its rates, with those of the seeds that choose one."""
        return {lr: [self.plain(seed, lr) for seed in seeds[: self.of_set.rate_seeds]] for lr in self.of_set.rates}

    def rate_scores(self, seeds: Sequence[int]) -> dict[float, float]:
        """What it reaches at each of them on the validation images, at thresholds of one half; the mean over seeds."""
        measure = MEASURES[self.of_set.measure]
        return {
            lr: float(np.mean(values([at_one_half(t.statistics(self.data, VALIDATION, ())) for t in trials], measure)))
            for lr, trials in self.rate_trials(seeds).items()
        }

    def _ours(self, preset: str, seed: int, name: str, options: Sequence[str], program: Program = "train.fit") -> Trial:
        network = ("--model.encoder", ENCODER, "--model.decoder-channels", *map(str, DECODER))
        given = ("--model.weights", self.weights, "--seed", str(seed), "--runtime.workers", "0")
        folder = self.work / f"{name}-{self.passes}-{seed}"
        return train(folder, self.data, preset, [*network, *given, *options], alone=False, program=program)


def run(name: str, data: Path, weights: Path, work: Path, *, passes: int | None, seeds: Sequence[int]) -> str:
    """Train all sides for every seed; the section of the report as Markdown.

    Args:
        name: of the set in `SETS`.
        data: its shards.
        weights: file of the encoder's pretrained weights.
        work: where runs go.
        passes: times each training image is seen; the set's own number when None.
        seeds: of the trainings.
    """
    of_set = SETS[name]
    sides = Sides(data, work, str(weights.absolute()), passes or of_set.passes, of_set)
    scores = sides.rate_scores(seeds)
    best = max(of_set.rates, key=scores.__getitem__)
    train_side: Mapping[str, Callable[[int], Trial]] = {
        AUTO: sides.auto,
        PLAIN: lambda seed: sides.plain(seed, best),
        PLAIN_ON_ALL: lambda seed: sides.plain(seed, best, on_all=True),
        SEVERSTAL: sides.severstal,
    }
    trials = {side: [train_side[side](seed) for seed in seeds] for side in (AUTO, *of_set.others)}
    judged = _judge(trials, data)
    rates = ", ".join(f"{lr:g} gives {100 * score:.2f}" for lr, score in scores.items())
    chose = "seed" if of_set.rate_seeds == 1 else f"{of_set.rate_seeds} seeds, on average"
    return "\n".join(
        [
            _about(data, sides, seeds),
            "",
            f"The plain loop's learning rate is the best of {len(of_set.rates)} in {of_set.measure} of the validation "
            f"images at threshold 0.5, with the first {chose}: {rates}. {_chosen(trials[AUTO][0])} "
            + trained_at(t for those in (*trials.values(), *sides.rate_trials(seeds).values()) for t in those),
            "",
            *score_rows(trials, judged),
            "",
            f"The aim was {of_set.aim:g} points of {of_set.measure} over the plain loop, on each kind of thresholds, "
            "with an interval over seeds above 0: " + _verdict(of_set, judged) + ". Tuning looks for the best mean "
            "Dice; its gate, by the classification head that the plain loop lacks, drops masks in doubt, which "
            "positive Dice pays for, and IoU where few images are clean (`train.evaluate --tune-thresholds --gates "
            "none` leaves it out).",
            "",
            *_gains(of_set, judged),
        ]
    )


def run_beside_preset(
    name: str, data: Path, weights: Path, work: Path, *, passes: int | None, seeds: Sequence[int]
) -> str:
    """The same of `auto` and the preset for Severstal alone, where the plain loop has been compared elsewhere."""
    of_set = replace(SETS[name], others=(SEVERSTAL,))
    sides = Sides(data, work, str(weights.absolute()), passes or of_set.passes, of_set)
    trials = {AUTO: [sides.auto(seed) for seed in seeds], SEVERSTAL: [sides.severstal(seed) for seed in seeds]}
    judged = _judge(trials, data)
    about = f"{_about(data, sides, seeds)} {trained_at([trial for those in trials.values() for trial in those])}"
    return "\n".join([about, "", *score_rows(trials, judged), "", *_gains(of_set, judged)])


def _judge(trials: Mapping[str, Sequence[Trial]], data: Path) -> Judged:
    """All sides at thresholds of one half; tuned, with test-time augmentation, those that have images for that."""
    tunable = {side: those for side, those in trials.items() if side != PLAIN_ON_ALL}
    return {
        HALF: {side: [raw(t, data) for t in those] for side, those in trials.items()},
        "threshold tuning and TTA": {
            side: [tuned(t, data, ("none",)) if side == PLAIN else tuned(t, data) for t in those]
            for side, those in tunable.items()
        },
        "threshold tuning and TTA, no gate": {
            side: [tuned(t, data, ("none",)) for t in those] for side, those in tunable.items()
        },
    }


def _about(data: Path, sides: Sides, seeds: Sequence[int]) -> str:
    index = ShardReader(str(data)).index
    height, width = int(np.median(index.height)), int(np.median(index.width))
    folds = np.asarray(index.fold)
    num = np.bincount(folds, minlength=3)
    areas = np.asarray(index.areas)
    absent, holders = areas[folds == TEST] == 0, (areas > 0).sum(axis=0)
    crop, plain_crop = ("{}x{}".format(*size) for size in (sides.of_set.crop, sides.of_set.plain_crop))
    of_others = {
        PLAIN: f"the plain loop has crops of {plain_crop} in batches of {PLAIN_BATCH}, the batch that auto chooses; ",
        PLAIN_ON_ALL: "once more it trains on the validation images, too, at the same rate and for as many passes, and "
        "has no images to tune on; ",
        SEVERSTAL: f"the preset severstal has crops of {crop} in batches of {sides.of_set.batch_size}, then whole "
        "images; ",
    }
    told = "".join(words for side, words in of_others.items() if side in sides.of_set.others)
    missing = [seed for seed in (0, 1, 2) if seed not in seeds]
    return (
        f"{sides.of_set.images}: {num[2:].sum()} images of {height}x{width} train, {num[VALIDATION]} validate, "
        f"{num[TEST]} test, {absent.all(axis=1).sum()} of these clean, and answering nothing gets "
        f"{100 * absent.mean():.2f} mean Dice; of all {len(areas)}, "
        f"{', '.join(map(str, holders))} have each class; U-Net with {ENCODER} from ImageNet weights and a decoder of "
        f"{'-'.join(map(str, DECODER))} channels; {sides.passes} pass{'es' * (sides.passes != 1)}. "
        f"{told[0].upper()}{told[1:]}auto what it chooses. All in {precision_here()}. "
        f"Seeds {', '.join(map(str, seeds))}"
        + (f"; missing of three: {', '.join(map(str, missing))}" if missing else "")
        + ". Scores in percent, of the test images; processor seconds are of one thread."
    )


def _chosen(trial: Trial) -> str:
    """What auto made of the set: a pass of larger crops shows more of an image."""
    phases = load_checkpoint(trial.checkpoint).provenance["config"]["phases"]
    height, width = phases[0]["crop"]
    return f"For its first phase auto chose crops of {height}x{width} in batches of {phases[0]['batch_size']}."


def precision_here() -> str:
    """What `auto` is where this runs, for all sides."""
    chosen = choose_precision("auto", "cuda" if torch.cuda.is_available() else "cpu")
    return "float32" if chosen == "no" else chosen


def score_rows(trials: Mapping[str, Sequence[Trial]], judged: Judged) -> list[str]:
    """A table of each side's scores by each kind of thresholds, and of what its trainings took."""
    lines = [
        f"| | {' | '.join(f'{name} (each seed)' for name in MEASURES)} | processor seconds to train |",
        f"|---|{'---|' * len(MEASURES)}---|",
    ]
    for how, sides in judged.items():
        for side, outcomes in sides.items():
            cells = [spread(values(outcomes, measure)) for measure in MEASURES.values()]
            seconds = ", ".join(f"{trial.processor_seconds:.0f}" for trial in trials[side])
            lines.append(f"| {side}, {how} | {' | '.join(cells)} | {seconds} |")
    return lines


def _gains(of_set: DataSet, judged: Judged) -> list[str]:
    lines = ["| auto over | measure | points | 95 % over seeds | 95 % over test images |", "|---|---|---|---|---|"]
    for how, sides in judged.items():
        for side in of_set.others:
            outcomes = sides.get(side, judged[HALF][side])
            label = f"{side}, {how}" if side in sides else f"{side}, {HALF}; auto: {how}"
            for name, measure in MEASURES.items():
                found = gain(sides[AUTO], outcomes, measure)
                lines.append(f"| {label} | {name} | {found.text()} |")
    return lines


def _verdict(of_set: DataSet, judged: Judged) -> str:
    """Whether the aim was reached under each kind of thresholds, in words."""
    said = []
    for how, sides in judged.items():
        found = gain(sides[AUTO], sides[PLAIN], MEASURES[of_set.measure])
        above = found.seeds_interval is not None and found.seeds_interval[0] > 0
        reached = 100 * found.mean >= of_set.aim and above
        why = "" if reached else " (one seed says nothing of others)" if found.seeds_interval is None else ""
        said.append(f"{how}: {'reached' if reached else f'not shown{why}'}")
    return "; ".join(said)
