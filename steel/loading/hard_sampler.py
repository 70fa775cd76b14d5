"""Hard examples: a share of a phase's positions for what the last validation before the phase missed.

Which positions these are, whose they are and which sample stands there follows from the position and from what was
missed, which does not change within a phase: the stream can still be entered anywhere.
"""

import math
from collections.abc import Sequence

import numpy as np

from steel.loading.sampler import HARD_SHUFFLE, HARD_TARGETED, Samples, Stratum, Stream, stratify

ROUND = 100
"""Hard positions are dealt to the strata in rounds of so many, so that shares are whole percents."""


class HardSampler(Stream):
    """An order, between whose positions `sampling.hard` of all are spread evenly that go to strata by their shares.

    The others go on in the order as if these were not there. Inside its stratum every sample is drawn once before any
    is drawn again. Targeted crops show the class of the stratum.

    Args:
        order: of the phase.
        strata: those that hard positions go to.
        shares: how many of 100 each is given.
    """

    def __init__(self, order: Stream, strata: Sequence[Stratum], shares: Sequence[int]) -> None:
        super().__init__(order.rows, order.areas, order.sampling, order.seed, order.phase)
        assert sum(shares) == ROUND, shares
        self.strata, self.shares = tuple(strata), tuple(shares)
        self._order = order
        self._turns = _spread(shares)
        self._numbers = np.empty(ROUND, np.int64)
        """Which of its stratum's turns in a round each one is."""
        for number, share in enumerate(shares):
            self._numbers[self._turns == number] = np.arange(share)

    def samples_at(self, positions: np.ndarray) -> Samples:
        """As in `Sampler`: the order's next sample, or a stratum's."""
        before = self._num_hard(positions)
        is_hard = self._num_hard(positions + 1) > before
        rows, target_classes = self._order.samples_at(positions - before)
        is_targeted = self._is_targeted(positions, HARD_TARGETED)
        rounds, turns = np.divmod(before, ROUND)
        for number, (stratum, share) in enumerate(zip(self.strata, self.shares, strict=True)):
            here = is_hard & (self._turns[turns] == number)
            draws = rounds[here] * share + self._numbers[turns[here]]
            rows[here] = self._draw(stratum, draws, HARD_SHUFFLE)
            target_classes[here] = np.where(is_targeted[here], stratum.class_id, 0)
        return Samples(rows, target_classes)

    def _num_hard(self, positions: np.ndarray) -> np.ndarray:
        """(n,) int64: how many of the positions before each are hard."""
        return np.floor(positions * self.sampling.hard).astype(np.int64)


def favour_missed(order: Stream, missed: Sequence[float | None]) -> Stream:
    """`order` with the hard positions that its sampling asks for; itself where that is none or nothing was missed.

    Args:
        order: of the phase.
        missed: by the last validation before it, see `steel.metrics.scores.missed`; empty where there was none.
    """
    if not order.sampling.hard or not any(missed):
        return order
    assert len(missed) == 1 + order.areas.shape[1], missed
    strata = stratify(order.rows, order.areas)
    known = [value for value in missed[1:] if value is not None] or [value for value in missed if value is not None]
    mean = math.fsum(known) / len(known)
    odds = [mean if value is None else value for value in (missed[stratum.class_id] for stratum in strata)]
    return HardSampler(order, strata, whole_percents(odds)) if any(odds) else order


def whole_percents(odds: Sequence[float]) -> list[int]:
    """Whole percents in proportion to `odds`, not all of which are 0: rounded down, and those cut most get the rest."""
    total = math.fsum(odds)
    exact = [ROUND * value / total for value in odds]
    shares = [math.floor(value) for value in exact]
    most_cut = sorted(range(len(odds)), key=lambda number: shares[number] - exact[number])
    for number in most_cut[: ROUND - sum(shares)]:
        shares[number] += 1
    return shares


def _spread(shares: Sequence[int]) -> np.ndarray:
    """(100,) int64: whose turn it is, each as often as its share, with the turns of each as far apart as they go."""
    middles = [((2 * turn + 1) / share, number) for number, share in enumerate(shares) for turn in range(share)]
    return np.array([number for _, number in sorted(middles)], np.int64)
