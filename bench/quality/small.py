"""Few training images of real steel: `--preset auto` on a pretrained encoder, the plain loop on it, auto from scratch.

Each number of images is a part of the next larger one; the test images are those of `neu.py`. Every training sees as
many images, however few there are.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.quality.neu import make_shards
from bench.quality.pretrained import AUTO, DECODER, ENCODER, PLAIN, RATES, SETS, Sides
from bench.quality.seeds import gain, miou, spread, values
from bench.quality.trial import Trial, raw, trained_at, tuned
from steel.metrics.scores import Outcome

SIZES = (25, 50, 100, 200)
SEEN = 3000
"""Images that a training sees in all."""
BATCH_SIZE = 8
"""The plain loop's, and what `auto` takes here: a larger one makes too few steps of them."""
SCRATCH = "auto from scratch"
SIDES = (AUTO, PLAIN, SCRATCH)


def run(source: Path, weights: Path, work: Path, *, seeds: Sequence[int], sizes: Sequence[int] = SIZES) -> str:
    """Train all sides for every size and seed; the section of the report as Markdown.

    Args:
        source: NEU-Seg.
        weights: file of the encoder's pretrained weights.
        work: where data and runs go.
        seeds: of the trainings.
        sizes: numbers of training images.
    """
    curve, gains, trained = [], [], list[Trial]()
    for size in sizes:
        data = make_shards(source, work, num_train=size)
        trials = _train(data, work / str(size), str(weights.absolute()), size, seeds)
        trained += [trial for those in trials.values() for trial in those]
        half = {side: [raw(trial, data) for trial in those] for side, those in trials.items()}
        after = {
            side: [tuned(trial, data, ("none",)) if side == PLAIN else tuned(trial, data) for trial in those]
            for side, those in trials.items()
        }
        for how, outcomes in (("threshold 0.5", half), ("threshold tuning and TTA", after)):
            cells = " | ".join(spread(values(outcomes[side], miou)) for side in SIDES)
            curve.append(f"| {size} | {passes_of(size)} | {how} | {cells} |")
            gains += [_gain_row(size, how, outcomes[AUTO], outcomes[side], side) for side in SIDES[1:]]
    return "\n".join(
        [
            f"U-Net with {ENCODER} and a decoder of {'-'.join(map(str, DECODER))} channels, from ImageNet weights but "
            f"for the last side; {SEEN:,} images seen, each as often. A quarter as many images validate, eight at "
            f"least; the plain loop has batches of {BATCH_SIZE}, as auto chooses, and the learning rate that is the "
            f"best of {len(RATES)} on them, with the first seed. "
            f"Seeds {', '.join(map(str, seeds))}. Mean IoU of three classes in percent, of the test images. "
            + trained_at(trained),
            "",
            f"| images | passes | | {' | '.join(f'{side} (each seed)' for side in SIDES)} |",
            "|---|---|---|---|---|---|",
            *curve,
            "",
            "| images | auto over | points | 95 % over seeds | 95 % over test images |",
            "|---|---|---|---|---|",
            *gains,
        ]
    )


def passes_of(size: int) -> int:
    """Passes over so many training images."""
    return round(SEEN / size)


def _train(data: Path, work: Path, weights: str, size: int, seeds: Sequence[int]) -> dict[str, list[Trial]]:
    sides = Sides(data, work, weights, passes_of(size), replace(SETS["pretrained-neu"], batch_size=BATCH_SIZE))
    scores = sides.rate_scores(seeds)
    best = max(RATES, key=scores.__getitem__)
    scratch = replace(sides, weights="none")
    return {
        AUTO: [sides.auto(seed) for seed in seeds],
        PLAIN: [sides.plain(seed, best) for seed in seeds],
        SCRATCH: [scratch.auto(seed, "scratch") for seed in seeds],
    }


def _gain_row(size: int, how: str, ours: Sequence[Outcome], theirs: Sequence[Outcome], side: str) -> str:
    return f"| {size} | {side}, {how} | {gain(ours, theirs, miou).text()} |"
