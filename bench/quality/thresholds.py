"""Is a tuned decision ever worse than thresholds of one half? Tuned on few images of each class, judged on many.

Simulated networks (see `simulation.py`) have any number of independent test images, and some of them leave nothing to
gain by tuning: there the right answer is to leave the thresholds alone. Those of `pretrained.py`, where they have been
trained, are tuned on few of their validation images and judged on their test images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.quality.pretrained import AUTO, SETS
from bench.quality.simulation import MEDIAN_AREAS, Network, simulate
from bench.quality.trial import FLIPS, TEST, VALIDATION, Trial, trained_at, training_areas
from steel.decision import default_decision
from steel.errors import InputError
from steel.gates import GATES
from steel.metrics.bootstrap import bootstrap_difference
from steel.metrics.scores import decide, score
from steel.metrics.statistics import EvaluationStatistics
from steel.thresholds.search_space import SearchSpace
from steel.thresholds.tuning import tune_thresholds

NETWORKS: Mapping[str, Network] = {
    "sure and right: nothing to gain": Network(3, 0.3, fringe=-3, fringe_share=1, alarms=0, head=1),
    "sure alarms like defects, a head that knows nothing: nothing to gain": Network(
        3, 0.3, fringe=-3, fringe_share=1, alarms=0.02, alarm=3, alarm_area=1, head=0
    ),
    "good": Network(alarms=0.02, alarm=-1),
    "many alarms, a good head": Network(alarms=0.25),
    "many small alarms, a poor head": Network(alarms=0.25, alarm=0.5, alarm_area=0.1, head=0.3),
    "a head that knows nothing": Network(1, alarm=-0.5, head=0),
    "too careful": Network(-0.5, alarm=-2, head=1),
    "poor": Network(-1, 1.5, alarms=0.3, alarm=-0.5, head=0.5),
}
RULES: Mapping[str, SearchSpace] = {
    "always the richest": SearchSpace(noise_factor=-1e9, confidence=None),
    "what scores more": SearchSpace(noise_factor=0, confidence=0, fewest=1),
    "ours": SearchSpace(),
}
"""How much a richer family of settings must gain, cross-fitted."""
POSITIVES = (5, 20)
"""Fewest and most tuned images with each class."""


@dataclass(frozen=True)
class Resample:
    """One set of tuned images; scores are mean Dice."""

    nothing: float
    """Of answering nothing, on the test images."""
    fixed: float
    """Of thresholds of one half, on the test images."""
    tuned: float
    """Of the tuned decision, on the test images."""
    gain_interval: tuple[float, float]
    """95 % of the difference of these, by resampling the test images."""
    claimed: float
    """What tuning says of its decision: the cross-fitted gain over thresholds of one half, on the tuned images."""
    in_sample: float
    """The gain of the decision itself on the images it was tuned on."""
    is_tuned: bool
    """Some mask may differ from that of thresholds of one half."""

    @property
    def gain(self) -> float:
        """Mean Dice on the test images, over thresholds of one half."""
        return self.tuned - self.fixed

    @property
    def is_worse(self) -> bool:
        """Than thresholds of one half, by more than the interval."""
        return self.gain_interval[1] < 0


@dataclass(frozen=True)
class Images:
    """What a network says of them."""

    tuned_on: EvaluationStatistics
    test: EvaluationStatistics
    training_areas: np.ndarray | None = None
    """As of `tune_thresholds`."""


def simulated(
    network: Network, seed: int, *, num_images: int, num_test: int, num_classes: int = len(MEDIAN_AREAS)
) -> Images:
    """Of a simulated network, both of the same kind.

    Args:
        network: to simulate.
        seed: of the images.
        num_images: to tune on.
        num_test: to judge on.
        num_classes: at most four.
    """
    rng = np.random.default_rng(seed)
    positives = rng.integers(POSITIVES[0], POSITIVES[1] + 1, num_classes)
    tuned_on = simulate(rng, network, num_images, positives.tolist())
    return Images(tuned_on, simulate(rng, network, num_test, (positives * num_test // num_images).tolist()))


def drawn(whole: Images, seed: int) -> Images:
    """As few images of those to tune on as have `POSITIVES` with each class, drawn at random.

    Raises:
        RuntimeError: there are none, as the most frequent class is in too many more than the rarest one.
    """
    rng, has = np.random.default_rng(seed), whole.tuned_on.true_areas > 0
    for _ in range(10_000):
        order = rng.permutation(len(has))
        counts = np.cumsum(has[order], axis=0)
        fits = np.flatnonzero(((counts >= POSITIVES[0]) & (counts <= POSITIVES[1])).all(axis=1))
        if len(fits):
            chosen = np.zeros(len(has), bool)
            chosen[order[: 1 + rng.choice(fits)]] = True
            return Images(whole.tuned_on.select(chosen), whole.test, whole.training_areas)
    raise RuntimeError(f"{has.sum(axis=0).tolist()} images have each class, and no draw has {POSITIVES} of all")


def judge(images: Images, space: SearchSpace, *, gates: Sequence[str] = tuple(GATES)) -> Resample:
    """Tune on some images, judge on the others.

    Args:
        images: both.
        space: of the search.
        gates: to try.
    """
    tuned_on, test = images.tuned_on, images.test
    half = default_decision(test.num_classes)
    found = tune_thresholds(tuned_on, space=space, gates=gates, training_areas=images.training_areas)
    before, after, start = decide(test, half), decide(test, found.decision), decide(tuned_on, half)
    interval = bootstrap_difference(after, before, "mean_dice", num_resamples=200)
    assert interval is not None
    settings = [(c.pixel_threshold, c.min_area, c.max_area) for c in found.decision.classes]
    return Resample(
        nothing=float(score(before).mean_dice_all_empty),
        fixed=float(score(before).mean_dice),
        tuned=float(score(after).mean_dice),
        gain_interval=interval,
        claimed=found.cross_fitted_score - float(score(start).mean_dice),
        in_sample=found.score - float(score(start).mean_dice),
        is_tuned=found.decision.gate != "none" or settings != [(c.pixel_threshold, 0, None) for c in half.classes],
    )


def run(*, resamples: int = 20, num_images: int = 200, num_test: int = 2500) -> str:
    """Every simulated network under every rule; the section of the report as Markdown.

    Args:
        resamples: of each network's images.
        num_images: to tune on.
        num_test: to judge on.
    """
    networks = {
        name: partial(simulated, network, num_images=num_images, num_test=num_test)
        for name, network in NETWORKS.items()
    }
    return "\n".join(
        [
            f"{num_images} simulated images of {len(MEDIAN_AREAS)} classes, each in {POSITIVES[0]} to {POSITIVES[1]} "
            f"of them, tune the decision; {num_test:,} others test it; {resamples} times for each network. "
            f"{_RULES_IN_WORDS}",
            "",
            *_table(networks, resamples),
        ]
    )


def run_on_trained(name: str, work: Path, *, resamples: int = 20) -> str:
    """Every network of `auto` that was trained on one of `SETS`, under every rule; the section as Markdown.

    Args:
        name: of the set.
        work: of the set.
        resamples: of the validation images, for each network.

    Raises:
        InputError: none was trained.
    """
    found = list(_trained(name, work))
    if not found:
        raise InputError(f"{work}: no training of auto has ended there; run `python -m bench.quality {name}` first")
    networks = {f"seed {trial.folder.name.rpartition('-')[2]}": partial(drawn, whole) for trial, whole in found}
    return "\n".join(
        [
            f"Networks of `auto`, trained for `bench.quality {name}`: as many of their validation images as have each "
            f"class in {POSITIVES[0]} to {POSITIVES[1]}, drawn {resamples} times, tune the decision with all flips, "
            f"and the whole test fold judges it. {_RULES_IN_WORDS} {trained_at(trial for trial, _ in found)}",
            "",
            *_table(networks, resamples),
        ]
    )


_RULES_IN_WORDS = (
    "Gains are in points of mean Dice over thresholds of one half: on the tuned images themselves, cross-fitted (what "
    "tuning claims), and on the test images (the truth). *Worse* counts the times that the test images show a loss "
    "beyond its 95 % interval; *tuned* the times that anything but thresholds of one half was shipped. A richer family "
    "of settings is taken always, or when it scores more, cross-fitted, or (ours) when it gains more than "
    f"{RULES['ours'].noise_factor:g} standard errors; the decision as a whole is then shipped when the interval of its "
    f"gain over thresholds of one half lies above 0 ({100 * (RULES['ours'].confidence or 0):g} %, by Student's t over "
    f"images, or over groups of them where these are known; ours never of fewer than {RULES['ours'].fewest})."
)


def _trained(name: str, work: Path) -> Iterator[tuple[Trial, Images]]:
    """The finished trainings of `auto` on a set, of its own passes, and what they say of all its images."""
    for folder in sorted(work.glob(f"{AUTO}-{SETS[name].passes}-*/trial.json")):
        trial, data = Trial(folder.parent), work / "shards"
        validation, test = (trial.statistics(data, fold, FLIPS) for fold in (VALIDATION, TEST))
        yield trial, Images(validation, test, training_areas(data))


def _table(networks: Mapping[str, Callable[[int], Images]], resamples: int) -> list[str]:
    """By the names of networks, each with what gives its images by a seed."""
    lines = [
        "| network | one half | nothing | rule | in-sample | cross-fitted | on the test | worst | worse | tuned |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, images in networks.items():
        for rule, space in RULES.items():
            lines.append(f"| {name} | {_row(rule, [judge(images(seed), space) for seed in range(resamples)])} |")
    return lines


def _row(rule: str, those: Sequence[Resample]) -> str:
    def points(values: Sequence[float]) -> str:
        return f"{100 * float(np.mean(values)):+.2f}"

    cells = [
        f"{100 * float(np.mean([r.fixed for r in those])):.2f}",
        f"{100 * float(np.mean([r.nothing for r in those])):.2f}",
        rule,
        points([r.in_sample for r in those]),
        points([r.claimed for r in those]),
        points([r.gain for r in those]),
        points([min(r.gain for r in those)]),
        str(sum(r.is_worse for r in those)),
        str(sum(r.is_tuned for r in those)),
    ]
    return " | ".join(cells)
