"""What the decoded cache gives the loader on this machine: a trial with some of the samples, where a run's would be."""

import contextlib
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steel import storage
from steel.config import Config, PhaseConfig, RuntimeConfig
from steel.distributed.runtime import Runtime
from steel.errors import told_bytes
from steel.machine import available_memory, local_ranks
from steel.shards.reader import BadSampleError, ShardReader
from train.doctor.benchmarks import loader_rate, sampler_of
from train.doctor.checks import Finding

MOST_SAMPLES, MOST_SECONDS, MOST_BYTES = 1000, 3.0, 512 * 2**20
"""What a rank decodes and holds for the trial ends with the first of these."""
LEAST_GAIN = 1.1
"""Two rates that differ by less are the same, measured for two seconds each."""


@dataclass(frozen=True)
class CachedRates:
    """A rank's training samples per second with a warm cache and without any, drawn from the same few samples."""

    held: float
    decoded: float
    room: int
    """Samples of the set that a run's cache would have room for; the trial held no others."""
    samples: int
    """Of the set."""
    num_bytes: int
    """Of a run's cache when it is full."""
    memory: int
    """Bytes of them that memory may hold, by the reckoning of `train.engine.decoded_samples`."""

    @property
    def gain(self) -> float:
        """How many times as fast as decoding."""
        return self.held / self.decoded

    @property
    def is_faster(self) -> bool:
        """By more than chance."""
        return self.gain >= LEAST_GAIN


def cached_rates(
    runtime: Runtime,
    reader: ShardReader,
    config: Config,
    phase: PhaseConfig,
    crop: tuple[int, int],
    workers: int,
) -> CachedRates | str:
    """Draw from samples that a cache holds, and from the same again without it; every rank calls this.

    All ranks of a node share the cache, as in a run. It is gone when this returns or raises; that of a process which
    is killed meanwhile makes way like any set's.

    Args:
        runtime: this rank's.
        reader: of the shards; it holds no decoded samples, before and after.
        config: of the preset.
        phase: whose batches are made.
        crop: its height and width.
        workers: of each rank.

    Returns:
        Why nothing was measured, the same words on every rank, where some rank could hold no sample.
    """
    if config.runtime.decoded_cache == "off":
        return "runtime.decoded-cache is off"
    name = runtime.broadcast(f"doctor-{secrets.token_hex(4)}")
    with contextlib.ExitStack() as leftovers:
        problem = _first(runtime.all_gather(_open(reader, config.runtime, name, leftovers)))
        if problem is not None:
            return problem
        cache = reader.decoded
        assert cache is not None
        rows = _hold_some(reader, sampler_of(reader, phase.sampling).rows, runtime)
        nothing = None if len(rows) else f"no sample can be held in {cache.folder.parent}"
        problem = _first(runtime.all_gather(nothing))
        if problem is not None:
            return problem
        held = loader_rate(reader, config, phase, crop, workers, runtime, rows)
        reader.decoded = None
        decoded = loader_rate(reader, config, phase, crop, workers, runtime, rows)  # which waits for all ranks first
        total, memory = len(reader.samples), available_memory() // 2
        return CachedRates(held, decoded, cache.num_samples, total, cache.num_bytes, memory)


def judge_cached(phase: str, rates: CachedRates | str, workers: int) -> Finding:
    """What was measured of a phase with so many workers, or why nothing was."""
    if isinstance(rates, str):
        return Finding("loader", f"phase {phase}: the decoded cache was not tried: {rates}")
    text = (
        f"with the decoded cache {rates.held:.0f} crops/s with {workers} workers, {rates.gain:.1f}x those that decode; "
        f"it takes {told_bytes(rates.num_bytes)}"
    )
    if rates.room < rates.samples:
        text += f", there being room for {rates.room} of {rates.samples} samples"
    if rates.num_bytes > rates.memory:
        text += ", more than memory may hold: a run reads the rest from the disk each time, which was not measured"
    return Finding("loader", f"phase {phase}: {text}")


def _open(reader: ShardReader, config: RuntimeConfig, name: str, leftovers: contextlib.ExitStack) -> str | None:
    """Let `reader` hold decoded samples; or why it cannot."""
    try:
        cache = reader.keep_decoded(config.cache_dir, config.decoded_bytes, trial=name)
    except OSError as error:
        return f"decoded samples cannot be held: {error}"
    leftovers.callback(shutil.rmtree, cache.folder, ignore_errors=True)
    leftovers.callback(setattr, reader, "decoded", None)
    return None if cache.num_samples else f"no room in {cache.folder.parent}"


def _hold_some(reader: ShardReader, rows: np.ndarray, runtime: Runtime) -> np.ndarray:
    """(n,) rows, ascending, out of all parts of `rows`, that this rank has read: all that there is room for are held.

    Empty where none is held. Each rank begins elsewhere, so that those of a node spare each other the decoding.
    """
    cache = reader.decoded
    assert cache is not None
    chosen = np.random.default_rng(0).permutation(rows)[:MOST_SAMPLES]
    chosen = np.roll(chosen, -runtime.rank * len(chosen) // runtime.world)
    # Sets that nobody uses would make way for a run's, but do not for a trial.
    bound = min(MOST_BYTES, (storage.free_bytes(cache.folder) or 0) // 2 // local_ranks())
    read: list[int] = []
    num_bytes, begun = 0, time.perf_counter()
    for row in chosen.tolist():
        with contextlib.suppress(BadSampleError):  # `check_shards` tells of them
            num_bytes += reader.read_sample(row).image.nbytes
            read.append(row)
        if num_bytes >= bound or time.perf_counter() - begun >= MOST_SECONDS:
            break
    # What is held is checked when it is first read again, which is not to be measured.
    held = {row for row in read if cache.read(row, reader.samples.place(row)) is not None}
    return np.array(sorted(row for row in read if row in held or row >= cache.num_samples) if held else [], np.int64)


def _first(problems: Sequence[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)
