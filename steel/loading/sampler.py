"""Which sample stands at which position of the endless training stream: a pure function of (seed, phase, position).

Nothing here knows of ranks, workers or files. No permutation is stored: an epoch's order is a keyed bijection of the
index range, evaluated where it is asked for, so the stream can be entered at any position at no cost. Shuffled samplers
start each epoch with a new key.
"""

from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from steel.config import SamplingConfig
from steel.errors import InputError
from steel.loading.permutation import below, hash_words, permute, uniform

# What a hash is for; keeps the streams drawn from one (seed, phase, position) independent of each other.
_SHUFFLE, _SLOT, _TARGETED, _TARGET_CLASS, _AUGMENT, _SHARD, _PASTED, _PASTED_CLASS, _DONOR = range(1, 10)
HARD_SHUFFLE, HARD_TARGETED = 10, 11


class Samples(NamedTuple):
    """Several places of the stream, in two int64 arrays of one length."""

    rows: np.ndarray
    """Index rows."""
    target_classes: np.ndarray
    """The class (1-based) that the crop must show; 0 for any crop."""


class Sampler(Protocol):
    """An endless stream of samples; `epoch_length` positions make an epoch."""

    @property
    def epoch_length(self) -> int:
        """Positions in an epoch."""

    def samples_at(self, positions: np.ndarray) -> Samples:
        """The samples at several positions, (n,) non-negative integers."""

    def donors_at(self, positions: np.ndarray) -> Samples:
        """Whose defects are pasted into the samples at several positions: their rows and the classes of the defects;
        class 0 where nothing is."""


def sample_seeds(seed: int, phase: int, positions: np.ndarray) -> np.ndarray:
    """The uint64 seeds (n,) of everything random about the samples at some positions: crop and augmentation."""
    return hash_words(seed, phase, _AUGMENT, positions)


class Stratum(NamedTuple):
    """The clean samples, or those that have a class; a sample with two classes belongs to both."""

    class_id: int
    """0 is clean."""
    rows: np.ndarray
    """(n,) index rows, ascending; at least one."""


class Stream:
    """What all samplers share: the samples drawn from, their class areas, and the key.

    Args:
        rows: (n,) index rows of the samples, ascending.
        areas: (N, C) pixels per class of *all* index rows; may be memory-mapped.
        sampling: of the phase.
        seed: of the run.
        phase: number of the phase; each has its own stream.
    """

    def __init__(self, rows: np.ndarray, areas: np.ndarray, sampling: SamplingConfig, seed: int, phase: int) -> None:
        assert len(rows) > 0
        self.rows, self.areas, self.sampling = rows, areas, sampling
        self.seed, self.phase = seed, phase

    @property
    def epoch_length(self) -> int:
        """Positions in an epoch: as many as there are samples."""
        return len(self.rows)

    def samples_at(self, positions: np.ndarray) -> Samples:
        """The samples at several positions, (n,) non-negative integers."""
        rows = self._rows_at(positions)
        return Samples(rows, self._choose_classes(rows, positions))

    def donors_at(self, positions: np.ndarray) -> Samples:
        """For a share of `sampling.paste` of the positions: a class, the likelier the fewer samples have it (in inverse
        proportion), and a sample that has it, each as likely."""
        rows, classes = np.zeros(len(positions), np.int64), np.zeros(len(positions), np.int64)
        if not self.sampling.paste or not self._donors:
            return Samples(rows, classes)
        pasted = uniform(self._hash(_PASTED, positions)) < self.sampling.paste
        odds = np.cumsum([1 / len(members) for _, members in self._donors])
        chosen = np.searchsorted(odds, odds[-1] * uniform(self._hash(_PASTED_CLASS, positions)), side="right")
        words = self._hash(_DONOR, positions)
        for number, (class_id, members) in enumerate(self._donors):
            here = pasted & (chosen == number)
            rows[here], classes[here] = members[below(words[here], len(members))], class_id
        return Samples(rows, classes)

    @cached_property
    def _donors(self) -> tuple[tuple[int, np.ndarray], ...]:
        """(class, rows that have it) of each class that is there."""
        present = _presence(self.rows, self.areas)
        return tuple((k, self.rows[has]) for k, has in enumerate(present.T, start=1) if has.any())

    def _rows_at(self, positions: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _hash(self, purpose: int, *parts: int | np.ndarray) -> np.ndarray:
        return hash_words(self.seed, self.phase, purpose, *parts)

    def _is_targeted(self, positions: np.ndarray, purpose: int = _TARGETED) -> np.ndarray:
        """(n,) bool: the crop at this position must show a defect, if its image has one."""
        return uniform(self._hash(purpose, positions)) < self.sampling.defect_crop

    def _draw(self, stratum: Stratum, numbers: np.ndarray, purpose: int) -> np.ndarray:
        """(n,) rows: what the draws of these numbers from a stratum give, each sample once before any again."""
        rounds, indices = np.divmod(numbers, len(stratum.rows))
        keys = self._hash(purpose, stratum.class_id, rounds)
        return stratum.rows[permute(indices, len(stratum.rows), keys)]

    def _choose_classes(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Target one of the classes present, each as likely; (n,) int64."""
        present = self.areas[rows] > 0
        num_present = present.sum(axis=1)
        nth = below(self._hash(_TARGET_CLASS, positions), num_present).astype(np.int64)
        chosen = (present.cumsum(axis=1) > nth[:, None]).argmax(axis=1) + 1
        return np.where(self._is_targeted(positions) & (num_present > 0), chosen, 0)


class NaturalSampler(Stream):
    """Every sample exactly once an epoch, in an order that is new each epoch."""

    def _rows_at(self, positions: np.ndarray) -> np.ndarray:
        epochs, indices = np.divmod(positions, self.epoch_length)
        return self.rows[permute(indices, self.epoch_length, self._hash(_SHUFFLE, epochs))].astype(np.int64)


class WindowedSampler(Stream):
    """Every sample exactly once an epoch, from a few shards at a time, for data larger than the local disk.

    Each epoch shuffles the shards, cuts them into windows of `sampling.window_shards`, and shuffles the samples of each
    window.

    Args:
        shards: (n,) the shard of each of `rows`, ascending.
    """

    def __init__(
        self,
        rows: np.ndarray,
        areas: np.ndarray,
        sampling: SamplingConfig,
        seed: int,
        phase: int,
        *,
        shards: np.ndarray,
    ) -> None:
        super().__init__(rows, areas, sampling, seed, phase)
        assert sampling.window_shards > 0
        assert np.all(np.diff(shards) >= 0), "rows are sorted by shard"
        self._starts = np.flatnonzero(np.diff(shards, prepend=-1))
        self._sizes = np.diff(self._starts, append=len(rows))

    def _rows_at(self, positions: np.ndarray) -> np.ndarray:
        epochs, indices = np.divmod(positions, self.epoch_length)
        rows = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._rows_of_epoch(int(epoch), indices[here])
        return rows

    def _rows_of_epoch(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        num_shards = len(self._sizes)
        shuffled = permute(np.arange(num_shards), num_shards, self._hash(_SHARD, epoch))
        edges = np.concatenate([[0], np.cumsum(self._sizes[shuffled])])  # of the shards, in this epoch's order
        window_edges = np.append(edges[: -1 : self.sampling.window_shards], edges[-1])
        windows = np.searchsorted(window_edges, indices, side="right") - 1
        places = np.empty_like(indices)
        for window in np.unique(windows):
            here, start = windows == window, window_edges[window]
            key = self._hash(_SHUFFLE, epoch, int(window))
            places[here] = start + permute(indices[here] - start, int(window_edges[window + 1] - start), key)
        shards = np.searchsorted(edges, places, side="right") - 1
        return self.rows[self._starts[shuffled[shards]] + places - edges[shards]].astype(np.int64)


class BalancedSampler(Stream):
    """Fixed quotas: every block of S positions holds one sample of each of S strata (clean, and each class present).

    Inside its stratum every sample is drawn once before any is drawn again, in an order that is new each time. Targeted
    crops show the class of the stratum.

    Attributes:
        strata: those that have samples.
    """

    def __init__(self, rows: np.ndarray, areas: np.ndarray, sampling: SamplingConfig, seed: int, phase: int) -> None:
        super().__init__(rows, areas, sampling, seed, phase)
        self.strata = stratify(rows, areas)

    def samples_at(self, positions: np.ndarray) -> Samples:
        """As in `Sampler`: a stratum for each position, a sample of it, and its class as the target."""
        blocks, slots = np.divmod(positions, len(self.strata))
        chosen = permute(slots, len(self.strata), self._hash(_SLOT, blocks))
        rows, target_classes = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
        for number, stratum in enumerate(self.strata):
            here = chosen == number
            rows[here], target_classes[here] = self._draw(stratum, blocks[here], _SHUFFLE), stratum.class_id
        return Samples(rows, np.where(self._is_targeted(positions), target_classes, 0))


def stratify(rows: np.ndarray, areas: np.ndarray) -> tuple[Stratum, ...]:
    """The strata that have any of `rows`, clean first."""
    present = _presence(rows, areas)
    members = [~present.any(axis=1), *present.T]
    return tuple(Stratum(class_id, rows[inside]) for class_id, inside in enumerate(members) if inside.any())


def _presence(rows: np.ndarray, areas: np.ndarray, chunk: int = 1 << 20) -> np.ndarray:
    """(n, C) bool: which classes each sample has; read in chunks, for `areas` may be large and memory-mapped."""
    parts = [areas[rows[start : start + chunk]] > 0 for start in range(0, len(rows), chunk)]
    return np.concatenate(parts) if parts else np.zeros((0, areas.shape[1]), bool)


def build_sampler(
    rows: np.ndarray,
    areas: np.ndarray,
    sampling: SamplingConfig,
    *,
    seed: int,
    phase: int,
    shards: np.ndarray | None = None,
) -> Stream:
    """The order that a phase's sampling asks for; what `sampling.hard` adds to it is in `steel.loading.hard_sampler`.

    Args:
        rows: (n,) index rows to draw from, ascending: those of the training folds.
        areas: (N, C) pixels per class of all index rows.
        sampling: natural or balanced, from all shards or a window of them, all images or defective ones only.
        seed: of the run.
        phase: number of the phase.
        shards: (N,) shard of all index rows; needed for windows of shards.

    Raises:
        InputError: nothing to draw from, or windows asked of a balanced order, with pasted defects or hard examples.
    """
    if sampling.defective_only:
        rows = rows[_presence(rows, areas).any(axis=1)]
    if len(rows) == 0:
        kind = "defective images" if sampling.defective_only else "images"
        raise InputError(f"sampling: the training folds hold no {kind}; choose other folds or other data")
    if sampling.window_shards and sampling.paste:
        raise InputError("sampling: pasted defects come from all shards at once; windows need paste 0")
    if sampling.window_shards and sampling.hard:
        raise InputError("sampling: hard examples come from all shards at once; windows need hard 0")
    if sampling.order == "balanced":
        if sampling.window_shards:
            raise InputError("sampling: the balanced order draws from all shards at once; windows need order natural")
        return BalancedSampler(rows, areas, sampling, seed, phase)
    if sampling.window_shards:
        assert shards is not None
        return WindowedSampler(rows, areas, sampling, seed, phase, shards=shards[rows])
    return NaturalSampler(rows, areas, sampling, seed, phase)
