"""How long a shard folder of many samples takes to open, and what memory: its index is made up, tars there are none.

`python -m bench.scaling.index_size FOLDER` opens one and prints the figures as JSON, in a process of its own.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steel.config import SamplingConfig
from steel.loading.sampler import build_sampler
from steel.shards.format import INDEX_NAME, MANIFEST_NAME, Manifest, ShardInfo, index_schema, write_index
from steel.shards.reader import ShardReader

SAMPLES_PER_SHARD = 1000
MICRO_BATCH = 8
_CLASSES, _FOLDS = 4, 5
_IMAGE, _JSON, _BLOCK = 128_000, 64, 512
_PLACE = (_IMAGE // _BLOCK + 1 + 2) * _BLOCK
"""What a sample takes in its tar: two headers, an image of whole blocks, a description."""


class Opening(NamedTuple):
    """Figures of one process."""

    opened: float
    """Seconds to read the manifest, open the index, and check both against each other."""
    sampler: float
    """Seconds to choose the training rows and make their order."""
    batch: float
    """Seconds to find the samples of a micro-batch in the middle of an epoch, and where they lie."""
    memory: int
    """Bytes by which the process has grown at its most, pages of the mapped index included."""


def make_folder(folder: Path, num_samples: int) -> int:
    """A finished shard folder of so many clean samples, without its tars; returns the bytes of its index."""
    folder.mkdir(parents=True)
    number = np.arange(num_samples)
    names = pc.utf8_lpad(pc.cast(pa.array(number), pa.string()), 10, "0")
    within = number % SAMPLES_PER_SHARD
    zeros = np.zeros(num_samples, np.int32)
    columns = (
        {
            "key": names,
            "image_id": pc.binary_join_element_wise(names, "jpg", "."),
            "image_ext": pa.repeat("jpg", num_samples),
            "shard": number // SAMPLES_PER_SHARD,
            "image_offset": within * _PLACE + _BLOCK,
            "image_length": zeros + _IMAGE,
            "json_offset": within * _PLACE + _IMAGE + 2 * _BLOCK,
            "json_length": zeros + _JSON,
            "areas": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(num_samples * _CLASSES, np.int32)), _CLASSES),
            "fold": number % _FOLDS,
            "group": number,
        }
        | dict.fromkeys(("height", "original_height"), zeros + 256)
        | dict.fromkeys(("width", "original_width"), zeros + 1600)
    )
    schema = index_schema(_CLASSES)
    arrays = [pa.array(columns.get(field.name, zeros)).cast(field.type) for field in schema]
    with open(folder / INDEX_NAME, "wb") as file:
        write_index(pa.Table.from_arrays(arrays, schema=schema), file)
    sizes = np.bincount(number // SAMPLES_PER_SHARD)
    index = folder / INDEX_NAME
    with index.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = Manifest(
        class_names=tuple(f"class {k + 1}" for k in range(_CLASSES)),
        num_samples=num_samples,
        num_positive=(0,) * _CLASSES,
        num_clean=num_samples,
        channels=1,
        mean=(0.5,),
        std=(0.2,),
        ignore_bit=None,
        folds=_FOLDS,
        num_groups=num_samples,
        seed=0,
        shards=tuple(
            ShardInfo(f"{k:06d}.tar", int(n), int(n) * _PLACE + 2 * _BLOCK, "0" * 64) for k, n in enumerate(sizes)
        ),
        index_size=index.stat().st_size,
        index_sha256=digest,
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return index.stat().st_size


def measure_opening(folder: str) -> Opening:
    """Open a folder as training does, but for the tars that are not there."""
    before = _most_memory()
    start = time.perf_counter()
    reader = ShardReader(folder, on_bad_sample="skip")  # `fail` would miss the tars at once
    opened = time.perf_counter()
    rows = reader.index.rows(range(1, _FOLDS))
    sampler = build_sampler(rows, reader.index.areas, SamplingConfig(), seed=0, phase=0)
    made = time.perf_counter()
    positions = sampler.epoch_length // 2 + np.arange(MICRO_BATCH)
    for row in sampler.samples_at(positions).rows:
        reader.samples.place(int(row))
    end = time.perf_counter()
    return Opening(opened - start, made - opened, end - made, _most_memory() - before)


def _most_memory() -> int:
    """Bytes that were resident at the most. (`getrusage` would begin with what the starting process had.)"""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) << 10


if __name__ == "__main__":
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    print(json.dumps(measure_opening(sys.argv[1])._asdict()))
