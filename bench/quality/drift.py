"""Whether varied brightness is worth its place where a set's images are alike: `auto` with it and without, on images
as they are, and on the same with all gray levels multiplied, as under a lamp that has grown darker or brighter.

For a linear camera that is the lamp's light; after a gamma of 2.2, 0.7 of the levels is less than half of the light.
What comes out above 255 is cut off there, as by a sensor that is full. How far lamps drift is for a plant to say: no
range here was taken from one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.quality.auto_choice import NO_BRIGHTNESS, train_variants
from bench.quality.pretrained import AUTO, MEASURES, SETS, DataSet, Sides, precision_here
from bench.quality.seeds import gain, spread, values
from bench.quality.trial import TEST, VALIDATION, Trial, at_one_half, evaluate, trained_at
from steel.metrics.scores import Outcome
from steel.shards.reader import Sample, ShardReader

LAMPS = (0.7, 0.85, 1.0, 1.15, 1.3)
"""What gray levels are multiplied by."""
JUDGED = {"pretrained-neu": TEST, "pretrained-bsdata": VALIDATION}
"""The fold of each set's shards that is scored: of NEU-Seg, whose shards here leave its test images out, the images
that stand in for them."""


class UnderLamp(ShardReader):
    """Reads the images of a shard folder as under another lamp."""

    def __init__(self, root: Path, light: float) -> None:
        """Of the shards in `root`, with `light` times the gray levels."""
        super().__init__(root)
        self._levels = (np.arange(256) * light).round().clip(max=255).astype(np.uint8)

    def read_sample(self, row: int, *, original_mask: bool = False) -> Sample:
        """As the shards', with other gray levels; so are whole images, which are read by samples."""
        sample = super().read_sample(row, original_mask=original_mask)
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
    trained = trained_at([trial for those in trials.values() for trial in those])
    return "\n".join(
        [
            f"{_about(of_set, data, JUDGED[name])}, at thresholds of one half, which have no part in training; "
            f"network, weights and passes as in `{name}`; seeds {', '.join(map(str, seeds))}. All in "
            f"{precision_here()}; scores in percent. {trained}",
            "",
            *_tables(trials, data, JUDGED[name]),
        ]
    )


def _about(of_set: DataSet, data: Path, fold: int) -> str:
    index = ShardReader(data).index
    judged = np.asarray(index.fold) == fold
    which = f"{judged.sum()} images that stand in for the test" if fold == TEST else f"{judged.sum()} validation images"
    return (
        f"{of_set.images}: judged on the {which}, their gray levels multiplied by "
        f"{', '.join(f'{light:g}' for light in LAMPS)}"
    )


def _tables(trials: Mapping[str, Sequence[Trial]], data: Path, fold: int) -> list[str]:
    """A row for each lamp and measure."""
    lines = [
        f"| levels times | measure | {AUTO} (each seed) | {NO_BRIGHTNESS} (each seed) | the former over the latter, "
        "points | 95 % over seeds | 95 % over images |",
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
