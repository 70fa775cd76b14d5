"""Whether a run holds decoded samples on each node's disk (`steel.shards.decoded_cache`), by a short measurement."""

import contextlib
import logging
import time
from dataclasses import dataclass

import numpy as np

from steel.config import RuntimeConfig
from steel.distributed.runtime import Runtime
from steel.errors import told_bytes
from steel.machine import available_memory, local_ranks
from steel.shards.decoded_cache import DecodedCache
from steel.shards.reader import BadSampleError, ShardReader
from train.engine.disk_speed import DiskSpeed, measure_disk

logger = logging.getLogger("train.fit")

LEAST_GAIN_S = 10.0
"""A run that would save less time on decoding goes without."""
_TRIAL_SAMPLES = 12
_TRIAL_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Need:
    """What one node decodes in a run."""

    samples: int
    """That it reads at all."""
    reads: float
    """Of them, over the whole run; each but the first of a sample could be spared."""
    decode_seconds: float
    """Of one sample, by all cores of the node together."""

    @property
    def spared(self) -> float:
        """Reads that need no decoding when everything is held."""
        return max(0.0, self.reads - self.samples)


def keep_decoded_samples(
    reader: ShardReader, rows: np.ndarray, passes: float, config: RuntimeConfig, runtime: Runtime
) -> None:
    """Let `reader` hold decoded samples as `runtime.decoded-cache` says; rank 0 chooses for all.

    Args:
        reader: of the shards.
        rows: (n,) rows of the samples that the run reads.
        passes: over them.
        config: of the run.
        runtime: this rank's.
    """
    if config.decoded_cache == "off":
        return
    nodes, cores = max(1, runtime.world // local_ranks()), runtime.cores * local_ranks()
    if config.decoded_cache == "auto" and not runtime.on_main(
        lambda: _is_worth_it(reader, rows, passes, nodes, cores, config)
    ):
        return
    try:
        cache = reader.keep_decoded(config.cache_dir, config.decoded_bytes)
    except OSError as error:
        logger.warning("decoded samples are not held: %s", error)
        return
    if runtime.is_main:
        logger.info(
            "decoded samples are held in %s: room for %d of %d, %s (runtime.decoded-cache)",
            cache.folder,
            cache.num_samples,
            len(reader.samples),
            told_bytes(cache.num_bytes),
        )


def gain_seconds(need: Need, held_bytes: int, missing_bytes: int, memory: int, disk: DiskSpeed) -> float:
    """Time that a node saves in a run by holding decoded samples: of decoding, less that of the disk.

    What is missing is written once. Memory serves as much of what is read as fits there, the disk the rest.

    Args:
        need: what the node decodes.
        held_bytes: of all samples that are to be held.
        missing_bytes: of those that are not held yet.
        memory: bytes that the page cache may take.
        disk: its speed.
    """
    from_disk = max(0.0, 1 - memory / held_bytes) if held_bytes else 0.0
    reading = from_disk * need.spared / need.samples * held_bytes / disk.read
    return need.spared * need.decode_seconds - missing_bytes / disk.write - reading


def _is_worth_it(
    reader: ShardReader, rows: np.ndarray, passes: float, nodes: int, cores: float, config: RuntimeConfig
) -> bool:
    """Try a few samples and, if decoding takes long enough for it to matter, the disk; see `gain_seconds`."""
    seconds = _decode_seconds(reader, rows) / cores
    # Of nodes that draw at random each comes across nearly all samples before long.
    seen = len(rows) * (1 - (1 - 1 / nodes) ** passes)
    need = Need(max(1, round(seen)), len(rows) * passes / nodes, seconds)
    if need.spared * seconds < LEAST_GAIN_S:
        return False
    try:
        cache = DecodedCache(reader.manifest, reader.samples, folder=config.cache_dir, max_bytes=config.decoded_bytes)
        if not cache.num_bytes:
            logger.info("decoded samples are not held: no room in %s (runtime.decoded-bytes)", cache.folder.parent)
            return False
        disk = measure_disk(cache.folder, _TRIAL_BYTES)
    except OSError as error:
        logger.info("decoded samples are not held: %s", error)
        return False
    share = cache.num_samples / len(reader.samples)
    part = Need(max(1, round(need.samples * share)), need.reads * share, seconds)
    missing = max(0, cache.num_bytes - cache.held_bytes)
    gain = gain_seconds(part, cache.num_bytes, missing, available_memory() // 2, disk)
    if gain < LEAST_GAIN_S:
        speeds = f"it writes {disk.write / 1e6:.0f} MB/s and reads {disk.read / 1e6:.0f} MB/s"
        logger.info("decoded samples are not held: %s is too slow to gain by it (%s)", cache.folder, speeds)
    return gain >= LEAST_GAIN_S


def _decode_seconds(reader: ShardReader, rows: np.ndarray) -> float:
    """Of one sample on one core: the median of a few neighbours, so that of a remote set one shard is fetched."""
    times = []
    for row in rows[:_TRIAL_SAMPLES].tolist():
        start = time.perf_counter()
        with contextlib.suppress(BadSampleError):  # what it means is the loader's to say
            reader.read_sample(row)
        times.append(time.perf_counter() - start)
    return float(np.median(times))
