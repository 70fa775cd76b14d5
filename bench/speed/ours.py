"""Our side of each row, as tasks of a worker in the project's environment."""

import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.speed.page_cache import drop_folder
from bench.speed.probabilities import (  # noqa: F401 - tasks
    statistics,
    statistics_bincount,
    statistics_device,
    statistics_host,
    statistics_masked,
)
from bench.speed.strings import HEIGHT, WIDTH, load_strings
from bench.speed.timing import Measure, in_child, time_passes, time_stretch, time_whole
from steel.config import SamplingConfig, TransformConfig
from steel.labels.rle import decode_rle, encode_rle
from steel.loading.augment import Augmenter
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import train_batches
from steel.loading.upcoming import with_upcoming
from steel.shards.reader import ShardReader

cv2.setNumThreads(1)
_shuffles = count()


@cache
def _reader(shards: str) -> ShardReader:
    return ShardReader(shards)


def _shuffled(reader: ShardReader) -> list[int]:
    """All rows, in another order at each call."""
    return np.random.default_rng(next(_shuffles)).permutation(len(reader)).tolist()


def raw_warm(shards: str, verify: bool, seconds: float) -> Measure:
    """Stored bytes of shuffled samples, from files in memory."""
    reader = _reader(shards)
    return time_passes(lambda: (reader.read_bytes(row, verify=verify) for row in _shuffled(reader)), seconds=seconds)


def raw_copy(shards: str, mapped: bool, seconds: float) -> Measure:
    """The same bytes in the same orders, by `os.pread` or out of mapped files, and nothing else: a reader's bounds."""
    reader = _reader(shards)
    places = [reader.samples.place(row) for row in range(len(reader))]
    spans = [(p.shard, p.image_offset, p.json_offset + p.json_length) for p in places]
    with ExitStack() as stack:
        files = [stack.enter_context((Path(shards) / info.name).open("rb")) for info in reader.manifest.shards]
        if mapped:
            maps = [stack.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) for file in files]
            slices = [(maps[shard], slice(start, end)) for shard, start, end in spans]
            return time_passes(
                lambda: (mapping[part] for mapping, part in (slices[row] for row in _shuffled(reader))), seconds=seconds
            )
        reads = [(files[shard].fileno(), end - start, start) for shard, start, end in spans]
        return time_passes(lambda: (os.pread(*reads[row]) for row in _shuffled(reader)), seconds=seconds)


def raw_cold(shards: str, verify: bool) -> Measure:
    """Stored bytes of shuffled samples, from the disk, asked for ahead as in a loader."""

    def measure() -> Measure:
        drop_folder(shards)
        return time_whole(lambda: _read_ahead(ShardReader(shards), verify))

    return in_child(measure)


def raw_remote(url: str, endpoint: str) -> Measure:
    """Stored bytes of shuffled samples from a store, through an empty cache filled ahead as in a loader."""
    import aiohttp  # noqa: F401 - here, so that imports are not measured
    import fsspec
    import s3fs  # noqa: F401

    fsspec.config.conf["s3"] = {"endpoint_url": endpoint, "key": "bench", "secret": "bench"}
    with tempfile.TemporaryDirectory() as folder:
        return in_child(lambda: time_whole(lambda: _read_ahead(ShardReader(url, cache_dir=folder), verify=True)))


def _read_ahead(reader: ShardReader, verify: bool) -> Iterator[Any]:
    """All samples in random order, those to come asked for, while a thread fetches whole shards of a store."""
    threading.Thread(target=reader.prefetch, daemon=True).start()
    for row, coming in with_upcoming(_shuffled(reader), reader.num_ahead()):
        reader.ask_for(coming)
        yield reader.read_bytes(row, verify=verify)


def decode(shards: str, seconds: float) -> Measure:
    """Decoded image and bitmask of shuffled samples."""
    reader = _reader(shards)
    return time_passes(lambda: (reader.read(row) for row in _shuffled(reader)), seconds=seconds)


def decoded(shards: str, crop: list[int] | None, seconds: float) -> Measure:
    """Image and bitmask of shuffled samples that are held decoded, copied into a used buffer: whole, or a crop."""
    reader = _holding_reader(shards)
    image, bitmask = (np.empty((HEIGHT, WIDTH), np.uint8) for _ in range(2))
    height, width = crop or (HEIGHT, WIDTH)
    lefts = np.random.default_rng(0).integers(0, WIDTH - width + 1, len(reader)).tolist()

    def copies() -> Iterator[int]:
        for row in _shuffled(reader):
            sample, columns = reader.read(row), slice(lefts[row], lefts[row] + width)
            image[:height, :width] = sample.image[:height, columns]
            bitmask[:height, :width] = sample.bitmask[:height, columns]
            yield row

    return time_passes(copies, seconds=seconds)


@cache
def _holding_reader(shards: str) -> ShardReader:
    """With every sample held, checked and in memory."""
    reader = ShardReader(shards)
    reader.keep_decoded(Path(shards).with_name("decoded"))
    for _ in range(2):
        for row in range(len(reader)):
            reader.read(row)
    return reader


def decoded_first(shards: str) -> Measure:
    """Shuffled samples decoded, and held for the first time."""

    def measure() -> Measure:
        with tempfile.TemporaryDirectory(dir=Path(shards).parent) as folder:
            reader = ShardReader(shards)
            reader.keep_decoded(folder)
            return time_whole(lambda: (reader.read(row) for row in _shuffled(reader)))

    return in_child(measure)


def decode_jpegs(shards: str, seconds: float) -> Measure:
    """The images alone, gray, from bytes that are at hand, by OpenCV."""
    reader = _reader(shards)
    images = [np.frombuffer(reader.read_bytes(row).image, np.uint8) for row in _shuffled(reader)[:200]]
    return time_passes(lambda: (cv2.imdecode(image, cv2.IMREAD_GRAYSCALE) for image in images), seconds=seconds)


@dataclass(frozen=True)
class _Place:
    index: int
    positions: range


def batches(
    shards: str, crop: list[int], batch_size: int, workers: int, num_samples: int, focused: bool, held: bool = False
) -> Measure:
    """Training batches; `focused` moves half of the defective images' crops onto a defect, as training does."""
    reader = _holding_reader(shards) if held else ShardReader(shards)
    sampling = SamplingConfig() if focused else SamplingConfig(defect_crop=0.0, max_black=1.0)
    transforms = {name: TransformConfig() for name in ("hflip", "vflip", "brightness_contrast")}
    manifest = reader.manifest
    augmenter = Augmenter(transforms, (crop[0], crop[1]), sampling, manifest.num_classes, manifest.ignore_bit)
    seed = next(_shuffles)
    sampler = build_sampler(np.arange(len(reader)), reader.index.areas, sampling, seed=seed, phase=0)
    places = (_Place(0, range(k * batch_size, (k + 1) * batch_size)) for k in count())
    loader = train_batches(reader, sampler, augmenter, places, seed=seed, phase=0, workers=workers)
    try:
        return time_stretch(loader, batch_size=batch_size, skip=8, count=num_samples // batch_size)
    finally:
        loader.close()


def rle_decode(csv: str, num_strings: int, seconds: float) -> Measure:
    """Masks from run-length texts."""
    strings = load_strings(csv, num_strings)
    return time_passes(lambda: (decode_rle(text, HEIGHT, WIDTH) for text in strings), seconds=seconds)


def rle_encode(csv: str, num_strings: int, seconds: float) -> Measure:
    """Run-length texts from masks."""
    masks = [decode_rle(text, HEIGHT, WIDTH) for text in load_strings(csv, num_strings)]
    return time_passes(lambda: (encode_rle(mask) for mask in masks), seconds=seconds)


def prepare(images: str, annotations: str, out: str, shard_size: int, workers: int) -> Measure:
    """The whole sharding job, with its pool of processes: checks, sums, duplicates, folds, index and manifest."""
    from data_prep.job import run_job
    from data_prep.options import Options
    from steel.executors import open_executor

    shutil.rmtree(out, ignore_errors=True)
    options = Options(images=images, labels=annotations, out=out, shard_size=shard_size)

    def written() -> range:
        with open_executor("process", workers) as executor:
            return range(run_job(options, executor, workers=workers).num_written)

    measure = time_whole(written)
    shutil.rmtree(out)
    assert measure.items == len(list(Path(images).iterdir()))
    return measure
