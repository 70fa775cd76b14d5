"""One gate's best decision: for each class the richest family of settings that its cross-fitted score supports.

Given a binary threshold the classes have nothing to do with each other: each climbs its ladder (see
`steel.thresholds.search.ladder`) from thresholds of one half, and a rung is taken when it gains, cross-fitted, more
than noise over the last one taken, or when only with it the class is found as often as it must be (see
`steel.thresholds.search_space.MIN_FOUND_SHARE`). That happens at every binary threshold; then the one that is best for
all classes together is chosen, among those at which the most of them are found. A class that none of the images has
takes no part in that: its alarms alone would be worth any threshold.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steel.decision import HALF, ClassDecision
from steel.gates import GATES
from steel.thresholds.crossfit import CrossFolds, Gain, paired_gain
from steel.thresholds.search import DICE_UNIT, Evidence, Family, found_tables, gain_tables, nearest_half
from steel.thresholds.search_space import ClassGrid, SearchSpace, ladder


@dataclass(frozen=True)
class Rung:
    """A family of settings that was tried for a class."""

    name: str
    gain: Gain
    """Cross-fitted, over the last rung taken before it, in the class's Dice."""
    is_taken: bool
    is_needed: bool = False
    """Taken though it gains no more than noise: only with it the class is found as often as it must be."""


@dataclass(frozen=True, eq=False)
class GateFit:
    """What a gate found on the images of some folds."""

    classes: tuple[ClassDecision, ...]
    """Thresholds that the gate does not look at are at one half."""
    binary_threshold: int
    rungs: tuple[tuple[Rung, ...], ...]
    """What each class tried."""
    gains: np.ndarray
    """(N,) int64: each image's gain over answering nothing under what was found without its fold, summed over classes
    that some image has, in 1 / DICE_UNIT; 0 for images of other folds."""
    missed: tuple[int, ...]
    """Classes, from 0, that are not found as often as they must be."""


@dataclass(frozen=True, eq=False)
class _Climb:
    """One class at the top of its ladder, at each of B binary thresholds."""

    rung: np.ndarray
    """(B,) the rung that was taken."""
    gains: np.ndarray
    """(N, B) int64, cross-fitted."""
    values: np.ndarray
    """(F + 1, B) int64 smoothed gains of what is best without each of the F folds, then with all of them."""
    finds: np.ndarray
    """(F + 1, B) bool: whether that finds the class as often as it must be."""
    trials: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    """Of each rung above the first: its gain over the last one taken, the gain's noise, whether that is enough, and
    whether the class needs it."""


class GateSearch:
    """Tables of every class's families under one gate, from which any subset of the folds is tuned."""

    def __init__(
        self,
        gate: str,
        evidence: Sequence[Evidence],
        grids: Sequence[ClassGrid],
        space: SearchSpace,
        folds: CrossFolds,
        present: np.ndarray,
    ) -> None:
        """Make the tables.

        Args:
            gate: its name.
            evidence: of each class.
            grids: of each class.
            space: of the search.
            folds: of the N images.
            present: (N, C) bool, whether an image has some pixel of each class.
        """
        self.gate, self.folds, self.grids, self.space = gate, folds, grids, space
        rule = GATES[gate]
        self.binary_thresholds = space.label_thresholds if rule.asks_any else (0,)
        self.evidence = [e.under(rule) for e in evidence]
        self._num_with = np.stack([self._per_fold(np.flatnonzero(has)) for has in present.T])
        """(C, K) int64: the images of each fold that have each class."""
        self.families: list[dict[str, Family]] = []
        for e, grid, num_with in zip(self.evidence, grids, self._num_with, strict=True):
            whole = grid if rule.asks_class else replace(grid, label_thresholds=(0,))
            cells = e, whole, self.binary_thresholds, folds.fold_of, folds.num
            gains, found = gain_tables(*cells), found_tables(*cells)
            held = num_with, self._per_fold(_found_at_half(e, whole))
            self.families.append(
                {name: Family.of(gains, found, *held, whole, part) for name, part in ladder(whole).items()}
            )

    def fit(self, without: Collection[int] = ()) -> GateFit:
        """The best decision on all folds but some.

        With a single fold left nothing can be judged, and all thresholds stay at one half.
        """
        folds = [fold for fold in range(self.folds.num) if fold not in without]
        climbs = [self._climb(k, folds, without) for k in range(len(self.families))]
        order = nearest_half(self.binary_thresholds)
        num_with = self._num_with[:, folds]
        in_all = num_with.sum(axis=1, keepdims=True)
        told_of = np.concatenate([in_all - num_with, in_all], axis=1) > 0  # (C, F + 1)
        values = [climb.values * told[:, None] for climb, told in zip(climbs, told_of, strict=True)]
        totals = np.sum(values, axis=0)[:, order]
        num_found = np.sum([climb.finds for climb in climbs], axis=0)[:, order]
        among = np.where(num_found == num_found.max(axis=1, keepdims=True), totals, np.iinfo(np.int64).min)
        *by_fold, chosen = order[np.argmax(among, axis=1)].tolist()
        gains = np.zeros(len(self.folds.fold_of), np.int64)
        for fold, binary in zip(folds, by_fold, strict=True):
            mine = self.folds.fold_of == fold
            gains[mine] = sum(climbs[k].gains[mine, binary] for k in np.flatnonzero(told_of[:, -1]))
        return GateFit(
            classes=tuple(self._decision(k, climb.rung[chosen], chosen, without) for k, climb in enumerate(climbs)),
            binary_threshold=self.binary_thresholds[chosen] or HALF,
            rungs=tuple(self._rungs(k, climb, chosen) for k, climb in enumerate(climbs)),
            gains=gains,
            missed=tuple(k for k, climb in enumerate(climbs) if not climb.finds[-1, chosen]),
        )

    def _per_fold(self, images: np.ndarray) -> np.ndarray:
        """(K,) int64: how many of some images, by their positions, are in each fold."""
        return np.bincount(self.folds.fold_of[images], minlength=self.folds.num)

    def _climb(self, k: int, folds: Sequence[int], without: Collection[int]) -> _Climb:
        first, *others = self.families[k].values()
        gains, values, finds = self._crossfit(k, first, folds, without)
        rung = np.zeros(len(self.binary_thresholds), np.int64)
        known = np.isin(self.folds.fold_of, folds)
        trials = []
        for number, family in enumerate(others if len(folds) > 1 else [], start=1):
            richer_gains, richer_values, richer_finds = self._crossfit(k, family, folds, without)
            value, noise = paired_gain((richer_gains - gains)[known], self.folds.unit_of[known])
            enough, needed = value > self.space.noise_factor * noise, richer_finds[-1] & ~finds[-1]
            taken = enough | needed
            gains, values, finds = (
                np.where(taken, richer, simpler)
                for richer, simpler in ((richer_gains, gains), (richer_values, values), (richer_finds, finds))
            )
            rung[taken] = number
            trials.append((value / DICE_UNIT, noise / DICE_UNIT, enough, needed))
        return _Climb(rung, gains, values, finds, trials)

    def _crossfit(
        self, k: int, family: Family, folds: Sequence[int], without: Collection[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, B) gains of each image under what is best without its fold; (F + 1, B) values of the best settings, and
        whether they find the class."""
        evidence = self.evidence[k]
        fold_of = self.folds.fold_of[evidence.images]
        gains = np.zeros((len(self.folds.fold_of), len(self.binary_thresholds)), np.int64)
        best = [family.best((*without, fold)) for fold in folds]
        for fold, found in zip(folds, best, strict=True):
            at = np.flatnonzero(fold_of == fold)
            gains[evidence.images[at]] = family.gains(found.settings, evidence, at, self.binary_thresholds)
        best.append(family.best(without))
        return gains, np.stack([found.values for found in best]), np.stack([found.finds for found in best])

    def _decision(self, k: int, rung: int, binary: int, without: Collection[int]) -> ClassDecision:
        family = list(self.families[k].values())[rung]
        return family.decision(int(family.best(without).settings[binary]), self.grids[k].pixel_thresholds)

    def _rungs(self, k: int, climb: _Climb, binary: int) -> tuple[Rung, ...]:
        names = list(self.families[k])[1:]
        rungs = []
        for name, trial in zip(names, climb.trials, strict=False):
            value, noise, enough, needed = (of_binary[binary].item() for of_binary in trial)
            rungs.append(Rung(name, Gain(value, noise), enough or needed, needed and not enough))
        return tuple(rungs)


def _found_at_half(evidence: Evidence, grid: ClassGrid) -> np.ndarray:
    """Positions of the images with the class that a pixel threshold of one half finds."""
    return evidence.images[evidence.gains[:, grid.pixel_thresholds.index(HALF)] > 0]
