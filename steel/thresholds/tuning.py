"""Threshold tuning: the decision that scores best on images the model was not trained on, as far as they can tell.

Inside a family of settings the search is exact and exhaustive over a grid (see `steel.thresholds.search`), from the
statistics alone: no image is read again. Which family of settings, and which gate, is chosen by cross-fitting (see
`steel.thresholds.crossfit`): a richer one is taken only if it gains more than noise over the simpler ones on images
that it was not tuned on. All of that is cross-fitted once more, each fold answered by what is found on the others: that
is the score to believe, and a decision that is not shown by it to beat thresholds of one half is not taken either. Of
fewer than six images, or groups of such as belong together, none is, as the verdict on a result has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from steel.decision import HALF, Decision, default_decision
from steel.errors import InputError
from steel.gates import GATES
from steel.metrics.scores import Outcome, decide, score, score_sums
from steel.metrics.statistics import EvaluationStatistics
from steel.thresholds.crossfit import Gain, deal_folds, half_width
from steel.thresholds.explanation import explain
from steel.thresholds.gate_search import GateFit, GateSearch
from steel.thresholds.search import DICE_UNIT, gather_evidence
from steel.thresholds.search_space import SearchSpace, class_grid

Task = Callable[[], list[GateFit]]
"""Fits one gate."""
Share = Callable[[Sequence[Task]], list[list[GateFit]]]
"""Does tasks, here or in other processes that have the same ones, and gives their results in their order."""


def do_all(tasks: Sequence[Task]) -> list[list[GateFit]]:
    """Do them here, one after another."""
    return [task() for task in tasks]


@dataclass(frozen=True)
class Tuning:
    """A decision and how it was found."""

    decision: Decision
    score: float
    """`mean_dice` of the decision on the images it was found on: an optimistic one."""
    cross_fitted: Outcome = field(compare=False)
    """Every image answered by what the images of other folds say: its score is the one to believe, if with a grain of
    salt, as what is shipped was shown to gain by it. Where no `training_areas` were given, all images say which areas
    are tried."""
    by_gate: dict[str, Decision]
    """The best decision of every gate that was tried."""
    explanation: tuple[str, ...]
    """What was found, in plain words: a line each for the gain, the gate and every class."""

    @property
    def cross_fitted_score(self) -> float:
        """`mean_dice` of `cross_fitted`."""
        return float(score(self.cross_fitted).mean_dice)


def tune_thresholds(
    statistics: EvaluationStatistics,
    *,
    gates: Sequence[str] | None = None,
    training_areas: np.ndarray | None = None,
    tta: tuple[str, ...] = (),
    space: SearchSpace | None = None,
    class_names: Sequence[str] | None = None,
    share: Share = do_all,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Find the decision with the best mean Dice, averaged over adjacent settings, that the images support.

    A class that no image has cannot be tuned: it keeps thresholds of one half and no limits, and has no say in the
    gate. Label thresholds that the winning gate does not use do not touch the masks; they are set to the best F1 of the
    head (averaged over adjacent thresholds), so that its labels mean something.

    Args:
        statistics: of images that the model was not trained on.
        gates: those to try, in whatever order, all when None; the simplest of equals wins.
        training_areas: (M, C) pixels of each class in M training images at their original size (0s, for images without
            it, are left out); those of `statistics` when None.
        tta: the flipped views behind the statistics, to be recorded.
        space: the settings to try.
        class_names: for the explanation; class 1, class 2, ... when None.
        share: deals the gates to processes that all call this with the same arguments; all are fitted here by default.
        on_progress: is told how much of how much is done.

    Raises:
        InputError: there are no images.
    """
    if len(statistics) == 0:
        raise InputError("threshold tuning: there are no images in these folds; choose others")
    tuner = Tuner(
        *(statistics, [gate for gate in GATES if gates is None or gate in gates], training_areas, tta),
        space or SearchSpace(),
        share=share,
        on_progress=on_progress,
    )
    found = tuner.tune()
    fixed = tuner.complete(default_decision(statistics.num_classes))
    of_found, of_fixed = tuner.cross_fitted(), decide(statistics, fixed)
    told_of = tuner.present.any(axis=0)  # to answer a class that no image has less often is no gain
    differences = (score_sums(of_found).dice - score_sums(of_fixed).dice) @ told_of / len(told_of)
    gain, confidence = Gain.of(differences, tuner.folds.unit_of), tuner.space.confidence
    num_units = tuner.folds.num_units
    are_few = num_units < tuner.space.fewest
    is_shown = confidence is None or (not are_few and gain.exceeds(half_width(confidence, num_units)))
    decision = found.decision if is_shown else fixed
    return Tuning(
        decision=decision,
        score=float(score(decide(statistics, decision)).mean_dice),
        cross_fitted=of_found if is_shown else of_fixed,
        by_gate=found.by_gate,
        explanation=explain(
            statistics,
            class_names or [f"class {1 + k}" for k in range(statistics.num_classes)],
            decision,
            of_found,
            gain,
            found.gate_gains,
            {name: fit.missed for name, fit in found.fits.items()},
            found.fits[decision.gate].rungs if is_shown else (),
            are_few=are_few,
        ),
    )


@dataclass(frozen=True, eq=False)
class Tuned:
    """What some of the images say."""

    decision: Decision
    by_gate: dict[str, Decision]
    """The best one of every gate."""
    fits: dict[str, GateFit]
    gate_gains: dict[str, Gain]
    """Cross-fitted, of each gate over the first one, in mean Dice."""


class Tuner:
    """Tunes the decision on some images: on all of their folds, and on all but each. Every gate is fitted to them once,
    from sums of tables that are made once."""

    def __init__(
        self,
        statistics: EvaluationStatistics,
        gates: Sequence[str],
        training_areas: np.ndarray | None,
        tta: tuple[str, ...],
        space: SearchSpace,
        *,
        share: Share = do_all,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.statistics, self.tta, self.space = statistics, tta, space
        true_areas, (any_probs, *class_probs) = statistics.true_areas, statistics.label_probs.T
        areas = true_areas if training_areas is None else training_areas
        assert areas.shape[1:] == (statistics.num_classes,), (areas.shape, statistics.num_classes)
        self.present = np.greater(true_areas, 0)
        self.folds = deal_folds(statistics.rows, self.present, statistics.groups)
        self._grids = [class_grid(space, a, bool(p.any())) for a, p in zip(areas.T, self.present.T, strict=True)]
        self._evidence = [
            gather_evidence(statistics.histograms[:, k], class_probs[k], any_probs, grid.pixel_thresholds)
            for k, grid in enumerate(self._grids)
        ]
        self._on_progress, self._done = on_progress, 0
        self._total = len(gates) * (1 + 1 + self.folds.num)
        """The tables of every gate, its fit to all folds, and to all but each."""
        self._fits = dict(zip(gates, share([partial(self._fit, gate) for gate in gates]), strict=True))
        """Of each gate: to all folds, then to all but each."""
        on_progress(self._total, self._total)

    def search(self, gate: str) -> GateSearch:
        """The tables of a gate."""
        return GateSearch(gate, self._evidence, self._grids, self.space, self.folds, self.present)

    def _fit(self, gate: str) -> list[GateFit]:
        search = self.search(gate)
        self._advance()
        fits = []
        for without in ((), *((fold,) for fold in range(self.folds.num))):
            fits.append(search.fit(without))
            self._advance()
        return fits

    def tune(self, without: int | None = None) -> Tuned:
        """Choose among the gates that were fitted to all folds, or all but one: of those that beat all simpler ones the
        best of those that miss the fewest classes.

        Args:
            without: this fold.
        """
        fits = {gate: found[0 if without is None else 1 + without] for gate, found in self._fits.items()}

        def gain(richer: str, simpler: str) -> Gain:
            known = self._known(without)
            differences = (fits[richer].gains - fits[simpler].gains)[known]
            return Gain.of(differences / (DICE_UNIT * self.statistics.num_classes), self.folds.unit_of[known])

        def is_shown(gate: str) -> bool:
            simpler = [other for other in GATES[gate].simpler if other in fits]
            return all(gain(gate, other).exceeds(self.space.noise_factor) for other in simpler)

        gate = max(filter(is_shown, fits), key=lambda name: (-len(fits[name].missed), int(fits[name].gains.sum())))
        by_gate = {
            name: self.complete(Decision(fit.classes, name, fit.binary_threshold, self.tta), without)
            for name, fit in fits.items()
        }
        first, *others = fits
        return Tuned(by_gate[gate], by_gate, fits, {name: gain(name, first) for name in others})

    def _known(self, without: int | None) -> np.ndarray:
        """(N,) bool: images of other folds."""
        return self.folds.fold_of != (-1 if without is None else without)

    def _advance(self) -> None:
        self._done += 1
        self._on_progress(self._done, self._total)

    def cross_fitted(self) -> Outcome:
        """Each fold answered by what all others say."""
        folds = self.folds
        return Outcome.concat(
            [
                decide(self.statistics.select(folds.fold_of == fold), self.tune(without=fold).decision)
                for fold in range(folds.num)
            ]
        )

    def complete(self, decision: Decision, without: int | None = None) -> Decision:
        """The decision with the label thresholds that its gate leaves open, and with the views."""
        known = self._known(without)
        label_probs, present = self.statistics.label_probs[known], self.present[known]
        classes, binary, thresholds = decision.classes, decision.binary_threshold, self.space.label_thresholds
        if not GATES[decision.gate].asks_class:
            classes = tuple(
                replace(c, label_threshold=best_label_threshold(label_probs[:, 1 + k], present[:, k], thresholds))
                for k, c in enumerate(classes)
            )
        if not GATES[decision.gate].asks_any:
            binary = best_label_threshold(label_probs[:, 0], present.any(axis=1), thresholds)
        return replace(decision, classes=classes, binary_threshold=binary, tta=self.tta)


def best_label_threshold(label_probs: np.ndarray, true: np.ndarray, thresholds: Sequence[int]) -> int:
    """The threshold with the best F1 averaged with its neighbours', nearest one half among equals.

    Args:
        label_probs: (N,) uint8.
        true: (N,) bool.
        thresholds: to try, ascending.

    Returns:
        One of the thresholds; one half when no image has the label.
    """
    if not true.any():
        return HALF
    said = label_probs >= np.asarray(thresholds)[:, None]
    hits = np.count_nonzero(said & true, axis=1)
    f1 = 2 * hits / (np.count_nonzero(said, axis=1) + np.count_nonzero(true))
    window = np.ones(3)
    smoothed = (np.convolve(f1, window) / np.convolve(np.ones(len(f1)), window))[1:-1]
    equal = np.isclose(smoothed, smoothed.max(), rtol=0, atol=1e-12)
    return min(np.asarray(thresholds)[equal].tolist(), key=lambda threshold: abs(threshold - HALF))
