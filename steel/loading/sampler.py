"""Which sample stands at which position of the endless training stream: a pure function of (seed, phase, position).

Nothing here knows of ranks, workers or files. No permutation is stored: an epoch's order is a keyed bijection of the
index range, evaluated where it is asked for, so the stream can be entered at any position at no cost. Shuffled orders
start each epoch with a new key.
"""

from math import isqrt
from typing import NamedTuple, Protocol

import numpy as np

from steel.config import SamplingConfig
from steel.errors import InputError

_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 8
_WORD = (1 << 64) - 1

# What a hash is for; keeps the streams drawn from one (seed, phase, position) independent of each other.
_SHUFFLE, _SLOT, _FOCUS, _FOCUS_CLASS, _AUGMENT, _SHARD = range(1, 7)


class Draw(NamedTuple):
    """One place of the stream: the index row, and the class (1-based) that the crop must show; 0 = any crop."""

    row: int
    focus: int


class Draws(NamedTuple):
    """Several places: `rows` and `focuses`, int64 arrays of one length."""

    rows: np.ndarray
    focuses: np.ndarray


class Order(Protocol):
    """An endless stream of draws; `epoch_length` positions make an epoch."""

    @property
    def epoch_length(self) -> int: ...

    def draw(self, position: int) -> Draw: ...

    def draw_many(self, positions: np.ndarray) -> Draws: ...


def _mix(words: np.ndarray) -> np.ndarray:
    """A bijective 64-bit mixer (the finaliser of SplitMix64, Stafford's variant 13); wraps silently on arrays."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _hash(first: int | np.ndarray, *parts: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of several numbers, elementwise over broadcast arrays; at least 1-d."""
    state = np.zeros(1, np.uint64)
    for part in (first, *parts):
        word = np.atleast_1d(np.asarray(part & _WORD if isinstance(part, int) else part)).astype(np.uint64)
        state = _mix(state * np.uint64(_GOLDEN) + word + np.uint64(_GOLDEN))
    return state


def _below(words: np.ndarray, limit: int | np.ndarray) -> np.ndarray:
    """Hashes mapped evenly to [0, limit), for limits below 2**32."""
    return ((words >> np.uint64(32)) * np.asarray(limit, np.uint64)) >> np.uint64(32)


def _uniform(words: np.ndarray) -> np.ndarray:
    """Hashes as float64 in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_seeds(seed: int, phase: int, positions: np.ndarray) -> np.ndarray:
    """The uint64 seeds (n,) of everything random about the samples at some positions: crop and augmentation."""
    return _hash(seed, phase, _AUGMENT, positions)


def sample_seed(seed: int, phase: int, position: int) -> int:
    """The seed at one position; see `sample_seeds`."""
    return int(sample_seeds(seed, phase, np.asarray([position]))[0])


def permute(indices: np.ndarray, length: int, keys: np.ndarray) -> np.ndarray:
    """A keyed bijection of range(length), evaluated at `indices`.

    A Feistel network over the smallest near-square grid that holds the range (after Black and Rogaway's generalised
    Feistel cipher); the few results outside the range walk on until they are inside, which keeps it a bijection.

    Args:
        indices: integers in [0, length), any shape (n,).
        length: size of the range, below 2**62.
        keys: one uint64 key an index, or one for all; equal keys belong to one bijection.

    Returns:
        int64 (n,), each in [0, length).
    """
    assert 0 < length < 1 << 62
    num_rows = isqrt(length - 1) + 1
    num_columns = -(-length // num_rows)
    keys = np.broadcast_to(keys, indices.shape)
    places = _feistel(indices.astype(np.uint64), num_rows, num_columns, keys)
    outside = np.flatnonzero(places >= length)
    while outside.size:
        places[outside] = _feistel(places[outside], num_rows, num_columns, keys[outside])
        outside = outside[places[outside] >= length]
    return places.astype(np.int64)


def _feistel(places: np.ndarray, num_rows: int, num_columns: int, keys: np.ndarray) -> np.ndarray:
    """A keyed bijection of range(num_rows * num_columns): each half is shifted by a hash of the other, in turn."""
    row, column = np.divmod(places, np.uint64(num_columns))
    for turn in range(0, _ROUNDS, 2):
        row = row + _below(_mix(column + keys + np.uint64(turn * _GOLDEN & _WORD)), num_rows)
        row = np.where(row >= num_rows, row - np.uint64(num_rows), row)
        column = column + _below(_mix(row + keys + np.uint64((turn + 1) * _GOLDEN & _WORD)), num_columns)
        column = np.where(column >= num_columns, column - np.uint64(num_columns), column)
    return row * np.uint64(num_columns) + column


class _Stream:
    """What all orders share: the samples drawn from, their class areas, and the key.

    Args:
        rows: (n,) index rows of the samples, ascending.
        areas: (N, C) pixels a class of *all* index rows; may be memory-mapped.
        defect_crop: probability that the crop of a defective image must show a defect.
        seed: of the run.
        phase: number of the phase; each has its own stream.
    """

    def __init__(self, rows: np.ndarray, areas: np.ndarray, defect_crop: float, seed: int, phase: int) -> None:
        assert len(rows) > 0
        self.rows, self.areas, self.defect_crop = rows, areas, defect_crop
        self.seed, self.phase = seed, phase

    @property
    def epoch_length(self) -> int:
        """Positions in an epoch: as many as there are samples."""
        return len(self.rows)

    def draw(self, position: int) -> Draw:
        """The sample at one position."""
        rows, focuses = self.draw_many(np.asarray([position]))
        return Draw(int(rows[0]), int(focuses[0]))

    def draw_many(self, positions: np.ndarray) -> Draws:
        """The samples at several positions, (n,) non-negative integers."""
        rows = self._rows_at(positions)
        return Draws(rows, self._focus_any(rows, positions))

    def _rows_at(self, positions: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _hash(self, purpose: int, *parts: int | np.ndarray) -> np.ndarray:
        return _hash(self.seed, self.phase, purpose, *parts)

    def _focused(self, positions: np.ndarray) -> np.ndarray:
        """(n,) bool: the crop at this position must show a defect, if its image has one."""
        return _uniform(self._hash(_FOCUS, positions)) < self.defect_crop

    def _focus_any(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Focus on one of the classes present, each as likely; (n,) int64."""
        present = self.areas[rows] > 0
        num_present = present.sum(axis=1)
        nth = _below(self._hash(_FOCUS_CLASS, positions), num_present).astype(np.int64)
        chosen = (present.cumsum(axis=1) > nth[:, None]).argmax(axis=1) + 1
        return np.where(self._focused(positions) & (num_present > 0), chosen, 0)


class SequentialOrder(_Stream):
    """The samples in index order, again and again."""

    def _rows_at(self, positions: np.ndarray) -> np.ndarray:
        return self.rows[positions % self.epoch_length].astype(np.int64)


class NaturalOrder(_Stream):
    """Every sample exactly once an epoch, in an order that is new each epoch."""

    def _rows_at(self, positions: np.ndarray) -> np.ndarray:
        epochs, indices = np.divmod(positions, self.epoch_length)
        return self.rows[permute(indices, self.epoch_length, self._hash(_SHUFFLE, epochs))].astype(np.int64)


class WindowedOrder(_Stream):
    """Every sample exactly once an epoch, from a few shards at a time, for data larger than the local disk.

    Each epoch shuffles the shards, cuts them into windows of `window_shards`, and shuffles the samples of each window.

    Args:
        shards: (n,) the shard of each of `rows`, ascending.
        window_shards: shards a window, at least 1.
    """

    def __init__(
        self,
        rows: np.ndarray,
        areas: np.ndarray,
        defect_crop: float,
        seed: int,
        phase: int,
        *,
        shards: np.ndarray,
        window_shards: int,
    ) -> None:
        super().__init__(rows, areas, defect_crop, seed, phase)
        assert window_shards > 0
        assert np.all(np.diff(shards) >= 0), "rows are sorted by shard"
        self.window_shards = window_shards
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
        window_edges = np.append(edges[: -1 : self.window_shards], edges[-1])
        windows = np.searchsorted(window_edges, indices, side="right") - 1
        places = np.empty_like(indices)
        for window in np.unique(windows):
            here, start = windows == window, window_edges[window]
            key = self._hash(_SHUFFLE, epoch, int(window))
            places[here] = start + permute(indices[here] - start, int(window_edges[window + 1] - start), key)
        shards = np.searchsorted(edges, places, side="right") - 1
        return self.rows[self._starts[shuffled[shards]] + places - edges[shards]].astype(np.int64)


class BalancedOrder(_Stream):
    """Fixed quotas: every block of S positions holds one sample of each of S strata (clean, and each class present).

    A sample with two classes belongs to both strata. Inside its stratum every sample is drawn once before any is drawn
    again, in an order that is new each time. Focused crops show the class of the stratum.

    Attributes:
        strata: (class, rows) for each stratum that has samples; class 0 is clean.
    """

    def __init__(self, rows: np.ndarray, areas: np.ndarray, defect_crop: float, seed: int, phase: int) -> None:
        super().__init__(rows, areas, defect_crop, seed, phase)
        present = _presence(rows, areas)
        members = [~present.any(axis=1), *present.T]
        self.strata = tuple((number, rows[inside]) for number, inside in enumerate(members) if inside.any())

    def draw_many(self, positions: np.ndarray) -> Draws:
        blocks, slots = np.divmod(positions, len(self.strata))
        chosen = permute(slots, len(self.strata), self._hash(_SLOT, blocks))
        rows, focuses = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
        for number, (class_id, members) in enumerate(self.strata):
            here = chosen == number
            rounds, indices = np.divmod(blocks[here], len(members))
            keys = self._hash(_SHUFFLE, class_id, rounds)
            rows[here], focuses[here] = members[permute(indices, len(members), keys)], class_id
        return Draws(rows, np.where(self._focused(positions), focuses, 0))


def _presence(rows: np.ndarray, areas: np.ndarray, chunk: int = 1 << 20) -> np.ndarray:
    """(n, C) bool: which classes each sample has; read in chunks, for `areas` may be large and memory-mapped."""
    parts = [areas[rows[start : start + chunk]] > 0 for start in range(0, len(rows), chunk)]
    return np.concatenate(parts) if parts else np.zeros((0, areas.shape[1]), bool)


def build_order(
    rows: np.ndarray,
    areas: np.ndarray,
    sampling: SamplingConfig,
    *,
    seed: int,
    phase: int,
    shards: np.ndarray | None = None,
    window_shards: int = 0,
) -> Order:
    """The order a phase's sampling asks for.

    Args:
        rows: (n,) index rows to draw from, ascending: those of the training folds.
        areas: (N, C) pixels a class of all index rows.
        sampling: natural or balanced, all images or defective ones only.
        seed: of the run.
        phase: number of the phase.
        shards: (N,) shard of all index rows; needed with `window_shards`.
        window_shards: above 0, shuffle inside windows of so many shards (natural order only).

    Raises:
        InputError: nothing to draw from, or windows asked of a balanced order.
    """
    if sampling.defective_only:
        rows = rows[_presence(rows, areas).any(axis=1)]
    if len(rows) == 0:
        kind = "defective images" if sampling.defective_only else "images"
        raise InputError(f"sampling: the training folds hold no {kind}; choose other folds or other data")
    if sampling.order == "balanced":
        if window_shards:
            raise InputError("sampling: the balanced order draws from all shards at once; windows need order natural")
        return BalancedOrder(rows, areas, sampling.defect_crop, seed, phase)
    if window_shards:
        assert shards is not None
        return WindowedOrder(
            rows, areas, sampling.defect_crop, seed, phase, shards=shards[rows], window_shards=window_shards
        )
    return NaturalOrder(rows, areas, sampling.defect_crop, seed, phase)
