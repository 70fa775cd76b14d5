"""Short measurements that a training run depends on: sums over ranks, and training batches."""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from steel.config import Config, PhaseConfig, SamplingConfig
from steel.distributed.runtime import Runtime
from steel.errors import InputError, counted, told_url
from steel.loading.augment import Augmenter
from steel.loading.sampler import Stream, build_sampler
from steel.loading.train_loader import train_batches
from steel.shards.reader import ShardReader
from train.doctor.checks import Finding
from train.doctor.link import Link, find_link
from train.engine.batch_plan import MicroBatchRange
from train.presets import AUGMENT

PROBE_SECONDS = 2.0
GRADIENT_BYTES = 100 * 2**20
"""What a step sums over the ranks for a network of 25 million parameters."""
LEAST_SHARE = 0.25
"""Of what a link gives by its name: a generous bound, so that what is below it has another reason than protocols."""
LEAST_ON_GPUS = 1.0
"""GB/s each way that sums of GPUs should have where the link is unknown."""
SAMPLE_SIZE = 64
MICRO_BATCH = 8


def probe_sum(runtime: Runtime) -> Iterator[Finding]:
    """Sum the gradients of an imaginary network over the ranks for two seconds; every rank calls this."""
    import torch

    if runtime.world == 1:
        yield Finding("all-reduce", "one rank, nothing to sum")
        return
    link = find_link(runtime)
    numbers = torch.ones(GRADIENT_BYTES // 4, device=runtime.device)

    def add_up(times: int) -> tuple[float, float]:
        start = time.perf_counter()
        for _ in range(times):
            numbers.fill_(1)
            runtime.all_reduce(numbers)
        total = numbers[-1].item()  # waits for the device
        return (time.perf_counter() - start) / times, total

    seconds, total = add_up(1)
    seconds, total = add_up(runtime.broadcast(max(1, min(1000, int(PROBE_SECONDS / seconds)))))
    if total != runtime.world:
        yield Finding(
            "all-reduce", f"{runtime.world} ranks add up to {total:g}; some rank is not in the group", "problem"
        )
    if not runtime.is_main:
        return
    yield from judge_sum(seconds, runtime.world, link, on_gpus=runtime.device.type == "cuda")


def judge_sum(seconds: float, world: int, link: Link, *, on_gpus: bool) -> Iterator[Finding]:
    """What a sum of `GRADIENT_BYTES` over so many ranks took, against what their link should give.

    In a ring, which moves the least, each rank sends and receives 2 (n - 1) / n times the bytes.
    """
    speed = GRADIENT_BYTES / seconds / 1e9
    moved = 2 * (world - 1) / world * speed
    took = f"{world} ranks sum 100 MiB in {seconds * 1e3:.0f} ms ({speed:.2f} GB/s)"
    if link.gb_per_s is None:
        yield Finding("all-reduce", f"{took}; {link.name}: what it should give cannot be told")
    else:
        share = moved / link.gb_per_s
        yield Finding(
            "all-reduce", f"{took}, {moved:.2f} GB/s each way: {share:.0%} of {link.gb_per_s:.3g} GB/s ({link.name})"
        )
    if link.is_bound and moved < (LEAST_SHARE * link.gb_per_s if link.gb_per_s else on_gpus * LEAST_ON_GPUS):
        where = (
            "NCCL may talk through the wrong network card; name the right one with NCCL_SOCKET_IFNAME and look at the "
            "output with NCCL_DEBUG=INFO"
            if on_gpus
            else "gloo may talk through the wrong network card, or others use it too; name the right one with "
            "GLOO_SOCKET_IFNAME"
        )
        yield Finding("all-reduce", f"that is slow for this link: {where}", "warning")


def check_shards(reader: ShardReader, rank: int) -> Iterator[Finding]:
    """Read and decode a few samples, others on each rank, against their checksums."""
    manifest = reader.manifest
    rows = np.random.default_rng(rank).permutation(len(reader.samples))[:SAMPLE_SIZE]
    bad: list[str] = []
    start = time.perf_counter()
    for row in rows:
        try:
            reader.read_sample(int(row))
        except InputError as error:
            bad.append(str(error))
    speed = len(rows) / (time.perf_counter() - start)
    if rank == 0:
        colour = "gray" if manifest.channels == 1 else "colour"
        yield Finding(
            "shards",
            f"{told_url(reader.root)}: {manifest.held(colour)} in {counted(len(manifest.shards), 'shard')}, "
            f"classes {', '.join(manifest.class_names)}; {len(rows) - len(bad)} of {len(rows)} samples read match "
            f"their checksums, {speed:.0f} samples/s in one process",
        )
    if bad:
        yield Finding(
            "shards",
            f"{len(bad)} of {len(rows)} samples are damaged, the first: {bad[0]}; `python -m data_prep.verify "
            f"{told_url(reader.root)}` lists all",
            "problem",
        )


def probe_loader(reader: ShardReader, workers: int, runtime: Runtime) -> Iterator[Finding]:
    """Draw training crops for two seconds, augmented as in the default recipe."""
    height, width = int(reader.samples.height.max()), int(reader.samples.width.max())
    sampling = SamplingConfig()
    augmenter = Augmenter(
        AUGMENT,
        (min(height, 256), min(width, 512)),
        sampling,
        reader.manifest.num_classes,
        reader.manifest.ignore_bit,
    )
    rate = batch_rate(reader, sampler_of(reader, sampling), augmenter, MICRO_BATCH, workers, runtime)
    crop = "x".join(map(str, augmenter.crop))
    yield Finding("loader", f"{rate:.0f} augmented {crop} crops/s per rank with {workers} workers")


def loader_rate(
    reader: ShardReader,
    config: Config,
    phase: PhaseConfig,
    crop: tuple[int, int],
    workers: int,
    runtime: Runtime,
    rows: np.ndarray | None = None,
) -> float:
    """Training samples per second of a rank in a phase, while all ranks load; every rank calls this.

    Args:
        reader: of the shards.
        config: of the recipe.
        phase: of it.
        crop: height and width.
        workers: of each rank.
        runtime: this rank's.
        rows: of the samples that this rank draws from, ascending; all when None.
    """
    manifest = reader.manifest
    augmenter = Augmenter(config.augment, crop, phase.sampling, manifest.num_classes, manifest.ignore_bit)
    runtime.barrier()
    sampler = sampler_of(reader, phase.sampling, rows)
    return batch_rate(reader, sampler, augmenter, phase.micro_batch, workers, runtime)


def sampler_of(reader: ShardReader, sampling: SamplingConfig, rows: np.ndarray | None = None) -> Stream:
    """The order of training in which the samples of these rows come, ascending; of all when None."""
    rows = np.arange(len(reader.samples)) if rows is None else rows
    return build_sampler(rows, reader.samples.areas, sampling, seed=0, phase=0, shards=reader.samples.shard)


def batch_rate(
    reader: ShardReader, sampler: Stream, augmenter: Augmenter, size: int, workers: int, runtime: Runtime
) -> float:
    """Training samples per second of this rank, in micro-batches of `size`, once its workers have started."""
    places = (MicroBatchRange(n, 0, range(n * size, (n + 1) * size)) for n in itertools.count())
    batches = train_batches(
        reader,
        sampler,
        augmenter,
        places,
        seed=runtime.rank,
        phase=0,
        workers=workers,
        pin_memory=runtime.device.type == "cuda",
        pin_in_place=True,
    )
    try:
        next(batches)
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < PROBE_SECONDS:
            images += len(next(batches).images)
        return images / (time.perf_counter() - start)
    finally:
        batches.close()
