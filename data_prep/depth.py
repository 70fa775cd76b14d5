"""How images of 16 bits become images of 8: what `--depth` asks for, and the window that percentiles come to."""

import hashlib
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from data_prep.reading import read_images
from data_prep.unusable import raise_once, unusable
from steel import storage
from steel.errors import InputError
from steel.images.decode import decode_pixels
from steel.images.listing import ImageRecord
from steel.images.pixel_format import MAX_LEVEL, Depth
from steel.validation_errors import Issue, ValidationErrors, raise_issues


@dataclass(frozen=True)
class Percentiles:
    """A window between two percentiles of all 16-bit values of a set, channels and images together."""

    low: float
    """In percent."""
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise InputError(
                f"--depth percentile {self.low:g} {self.high:g}: give two percentages, the lower one first"
            )

    def __str__(self) -> str:
        return f"percentile {self.low:g} {self.high:g}"


def parse_depth(words: Sequence[str]) -> Depth | Percentiles:
    """`window LOW HIGH`, `percentile P Q` or `high-byte`, as words.

    Raises:
        InputError: something else, or values that make no window.
    """
    rule, *values = words
    try:
        if rule == "window":
            low, high = map(int, values)
            return Depth("window", low, high)
        if rule == "percentile":
            return Percentiles(*map(float, values))
        if rule == "high-byte" and not values:
            return Depth("high-byte")
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
    raise InputError(f"--depth {' '.join(words)}: give window LOW HIGH, percentile P Q or high-byte")


def window_between(counts: np.ndarray, percentiles: Percentiles) -> Depth:
    """The window from the least value that so many percent of all do not exceed to another such value.

    Args:
        counts: (65536,) int64, how often each value occurs.
        percentiles: of the two ends.

    Raises:
        InputError: there are no values, or the two ends are one.
    """
    sums = np.cumsum(counts)
    if sums[-1] == 0:
        raise InputError(f"--depth {percentiles}: no image has 16 bits; leave --depth out")
    # As a count, from 1: what numpy calls the inverted distribution function.
    wanted = np.maximum(1, np.ceil(np.array([percentiles.low, percentiles.high]) / 100 * sums[-1]))
    low, high = np.searchsorted(sums, wanted).tolist()
    if low == high:
        raise InputError(f"--depth {percentiles}: both percentiles are {low}; give percentages further apart")
    return Depth("window", low, high)


@dataclass(frozen=True)
class LevelsTask:
    """The images of a shard whose values are to be counted."""

    records: tuple[ImageRecord, ...]
    url: str
    """Where the counts are kept, for a later run and for other parts of the job."""
    fingerprint: str
    """Of the plan they belong to."""
    staging: str


def count_levels(task: LevelsTask) -> np.ndarray:
    """How often each value of 16 bits occurs in the images of a shard: (65536,) int64; images of 8 bits count nothing.

    Raises:
        ValidationErrors: every image that cannot be read.
        ResourceError: the disk or store of the images fails.
    """
    known = kept_levels(task)
    if known is not None:
        return known
    counts = np.zeros(MAX_LEVEL + 1, np.int64)
    issues: list[Issue] = []
    for record, data in read_images(task.records):
        try:
            if isinstance(data, ValueError):
                raise data
            pixels = decode_pixels(data)
            if pixels.dtype == np.uint16:
                counts += np.bincount(pixels.ravel(), minlength=len(counts))
        except ValueError as error:
            issues.append(unusable(record.image_id, error))
    raise_issues(issues)
    data = _head(task) + zlib.compress(counts.tobytes(), 1)
    storage.write_bytes(task.url, data + hashlib.sha256(data).digest(), staging=task.staging)
    return counts


def kept_levels(task: LevelsTask) -> np.ndarray | None:
    """Counts that an earlier run or another part has left; None where there are none of this plan, or damaged ones."""
    try:
        content = storage.read_bytes(task.url)
    except FileNotFoundError:
        return None
    data, digest = content[: -hashlib.sha256().digest_size], content[-hashlib.sha256().digest_size :]
    if hashlib.sha256(data).digest() != digest or not data.startswith(_head(task)):
        return None
    return np.frombuffer(zlib.decompress(data[len(_head(task)) :]), np.int64)


def _head(task: LevelsTask) -> bytes:
    return f"{task.fingerprint}\n".encode()


def sum_levels(tasks: Sequence[LevelsTask], executor: Executor) -> np.ndarray:
    """The counts of all shards together; see `count_levels`.

    Raises:
        ValidationErrors: every image that cannot be read, of all shards.
    """
    total = np.zeros(MAX_LEVEL + 1, np.int64)
    issues: list[Issue] = []
    futures = [executor.submit(count_levels, task) for task in tasks]
    with tqdm(total=sum(len(task.records) for task in tasks), unit="image", desc="counting values") as bar:
        for task, future in zip(tasks, futures, strict=True):
            try:
                total += future.result()
            except ValidationErrors as error:
                issues += error.issues
            bar.update(len(task.records))
    raise_once(issues)
    return total
