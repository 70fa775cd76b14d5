"""Keyed randomness without state: hashes of numbers, and permutations evaluated where they are asked for."""

from math import isqrt

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15


_ROUNDS = 8


_WORD = (1 << 64) - 1


def _mix(words: np.ndarray) -> np.ndarray:
    """A bijective 64-bit mixer (the finaliser of SplitMix64, Stafford's variant 13); wraps silently on arrays."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def hash_words(first: int | np.ndarray, *parts: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of several numbers, elementwise over broadcast arrays; at least 1-d."""
    state = np.zeros(1, np.uint64)
    for part in (first, *parts):
        word = np.atleast_1d(np.asarray(part & _WORD if isinstance(part, int) else part)).astype(np.uint64)
        state = _mix(state * np.uint64(_GOLDEN) + word + np.uint64(_GOLDEN))
    return state


def below(words: np.ndarray, limit: int | np.ndarray) -> np.ndarray:
    """Hashes mapped evenly to [0, limit), for limits below 2**32."""
    return ((words >> np.uint64(32)) * np.asarray(limit, np.uint64)) >> np.uint64(32)


def uniform(words: np.ndarray) -> np.ndarray:
    """Hashes as float64 in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


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
        row = row + below(_mix(column + keys + np.uint64(turn * _GOLDEN & _WORD)), num_rows)
        row = np.where(row >= num_rows, row - np.uint64(num_rows), row)
        column = column + below(_mix(row + keys + np.uint64((turn + 1) * _GOLDEN & _WORD)), num_columns)
        column = np.where(column >= num_columns, column - np.uint64(num_columns), column)
    return row * np.uint64(num_columns) + column
