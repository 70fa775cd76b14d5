"""Whether varied brightness is worth its place where a set's images are alike: `auto` with it and without, on images
as they are, and on the same under a lamp that has grown darker or brighter.

A lamp multiplies what a camera counts, so each gray level is multiplied; what comes out above 255 is cut off there, as
a sensor's full wells are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.quality.auto_choice import NO_BRIGHTNESS, train_variants
from bench.quality.pretrained import AUTO, SETS, DataSet, Sides, precision_here
from bench.quality.seeds import Measure, gain, mean_dice, mean_dice_positive, miou, spread, values
from bench.quality.trial import TEST, VALIDATION, Trial, at_one_half, evaluate, trained_at
from steel.metrics.scores import Outcome
from steel.shards.reader import Sample, ShardReader

LAMPS = (0.7, 0.85, 1.0, 1.15, 1.3)
"""The lamp's light, of that of the images as they are."""
MEASURES: Mapping[str, Measure] = {"mean IoU": miou, "mean Dice": mean_dice, "positive Dice": mean_dice_positive}
JUDGED = {"pretrained-neu": TEST, "pretrained-bsdata": VALIDATION}
"""The fold of each set's shards that is scored: of NEU-Seg, whose shards here leave its test images out, the images
that stand in for them."""


class UnderLamp(ShardReader):
    """Reads the images of a shard folder as under another lamp."""

    def __init__(self, root: Path, light: float) -> None:
        """Of the shards in `root`, with `light` times the light."""
        super().__init__(root)
        self._levels = (np.arange(256) * light).round().clip(max=255).astype(np.uint8)

    def read(self, row: int, *, original_mask: bool = False) -> Sample:
        """As the shards', with other gray levels."""
        sample = super().read(row, original_mask=original_mask)
        return sample._replace(image=self._levels[sample.image])


def run(name: str, data: Path, weights: Path, work: Path, *, passes: int | None, seeds: Sequence[int]) -> str:
    """Train both sides for every seed; the section of the report as Markdown.

    Args:
        name: of the set, one of `JUDGED`.
        data: its shards.
        weights: file of the encoder's pretrained weights.
        work: where runs go; those that are there are not trained again.
        passes: times each training image is seen; the set's own number when None.
        seeds: of the trainings.
    """
    of_set = SETS[name]
    sides = Sides(data, work, str(weights.absolute()), passes or of_set.passes, of_set)
    trials = train_variants(sides, seeds, [NO_BRIGHTNESS])
    return "\n".join(
        [
            f"{_about(of_set, data, JUDGED[name])}, at thresholds of one half, which have no part in training; "
            f"network, weights and passes as above; seeds {', '.join(map(str, seeds))}. All in {precision_here()}; "
            f"scores in percent. {trained_at([trial for those in trials.values() for trial in those])}",
            "",
            *_tables(trials, data, JUDGED[name]),
        ]
    )


def _about(of_set: DataSet, data: Path, fold: int) -> str:
    index = ShardReader(data).index
    judged = np.asarray(index.fold) == fold
    which = f"{judged.sum()} images that stand in for the test" if fold == TEST else f"{judged.sum()} validation images"
    return (
        f"{of_set.images}: judged on the {which}, under lamps of {', '.join(f'{light:g}' for light in LAMPS)} times "
        "the light"
    )


def _tables(trials: Mapping[str, Sequence[Trial]], data: Path, fold: int) -> list[str]:
    """A row for each lamp and measure."""
    lines = [
        f"| light | measure | {AUTO} (each seed) | {NO_BRIGHTNESS} (each seed) | the former over the latter, points | "
        "95 % over seeds | 95 % over images |",
        "|---|---|---|---|---|---|---|",
    ]
    for light in LAMPS:
        with_it, without = (
            [_outcome(trial, data, light, fold) for trial in trials[side]] for side in (AUTO, NO_BRIGHTNESS)
        )
        lines += [
            f"| {light:g} | {measure} | {spread(values(with_it, of))} | {spread(values(without, of))} | "
            f"{gain(with_it, without, of).text()} |"
            for measure, of in MEASURES.items()
        ]
    return lines


def _outcome(trial: Trial, data: Path, light: float, fold: int) -> Outcome:
    return at_one_half(evaluate(trial.checkpoint, UnderLamp(data, light), fold, ()))
