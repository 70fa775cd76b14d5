"""Which image goes into which shard: a pure function of the input and the options."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_prep.options import Options, SplitOptions
from data_prep.splits import read_groups_file, read_split_file, severstal_classic
from steel import storage
from steel.errors import InputError, counted, told_url
from steel.images.listing import IMAGE_SUFFIXES, LOSSY_SUFFIXES, ImageRecord
from steel.labels.labels import Labels
from steel.labels.load import load_labels
from steel.labels.yolo import TABLES, folder_of_table
from steel.shards.tiles import TileGrid
from steel.storage import FileInfo
from steel.validation_errors import Issue, raise_issues

_SAMPLE_OVERHEAD = 8192
"""Bytes that a sample takes beside its image: mask, description, tar headers and padding, generously."""
_LOSSLESS = 2
"""How many times as large as a JPEG a PNG of the same pixels is, at least."""
_FINGERPRINT_VERSION = 3
"""Another number where other things make a fingerprint."""
_READS = 16
"""Label files that are read at once: on a disk of the network each waits."""
_READS_AHEAD = 4096
"""And how many are asked for."""


@dataclass(frozen=True)
class ShardPlan:
    """One tar to write."""

    number: int
    """Its position in the manifest."""
    name: str
    records: tuple[ImageRecord, ...]
    num_bytes: int
    """About how large it becomes."""

    def labels(self, everything: Labels) -> Labels:
        """What a worker must know to write this shard."""
        wanted = [record.image_id for record in self.records]
        return replace(everything, images=self.records, source=everything.source.subset(wanted))


@dataclass(frozen=True)
class Plan:
    """All tars to write."""

    labels: Labels
    shards: tuple[ShardPlan, ...]
    fingerprint: str
    """Of everything the output's bytes depend on."""
    shards_fingerprint: str
    """Of everything that the bytes of shards depend on: what an unfinished job has written is good for the same,
    however its images are dealt to folds, which the index alone says."""

    def part(self, number: int, total: int) -> tuple[ShardPlan, ...]:
        """The shards of part `number` (from 1) of `total`."""
        return self.shards[number - 1 :: total]


def make_plan(options: Options) -> Plan:
    """Read the labels, list the images and deal them to shards.

    Images are dealt in an order shuffled by the seed, so that each shard is a fair sample of the set even where file
    names follow the production.

    Raises:
        InputError: all problems of the labels at once.
    """
    labels = load_labels(options.images, options.labels, options.label_options)
    _check_split(options.split_options, labels)
    sizes = file_sizes(options.images, labels.images)
    records = shuffled(labels.images, options.split_options.seed)
    chunks = [records[i : i + options.shard_size] for i in range(0, len(records), options.shard_size)]
    shards = tuple(
        ShardPlan(
            number,
            f"{options.prefix}-{number:06d}.tar",
            tuple(chunk),
            sum(_stored_bytes(record.image_id, sizes[record.image_id], options.tile) for record in chunk),
        )
        for number, chunk in enumerate(chunks)
    )
    return Plan(labels, shards, *_fingerprints(options, labels, sizes))


def file_sizes(folder: str, records: Sequence[ImageRecord]) -> dict[str, int]:
    """Bytes of each image's file, or its share of one that it is a page of; 0 where its store does not tell.

    Raises:
        ValidationErrors: images that are not there any more, as the folder is listed a second time here.
    """
    files = {storage.join(folder, file.path): file.size for file in storage.list_files(folder, IMAGE_SUFFIXES)}
    gone = [Issue("images that have gone since they were listed", r.image_id) for r in records if r.url not in files]
    raise_issues(gone, f"in {told_url(folder)}; run this again when nothing changes there")
    pages = Counter(record.url for record in records)
    return {record.image_id: (files[record.url] or 0) // pages[record.url] for record in records}


def _stored_bytes(image_id: str, size: int, tile: TileGrid | None) -> int:
    """About what a sample takes; in tiles, as if the image were large enough for many."""
    if tile is not None:
        if image_id.lower().endswith(LOSSY_SUFFIXES):
            size *= _LOSSLESS
        size = size * tile.height * tile.width // ((tile.height - tile.overlap) * (tile.width - tile.overlap))
    return size + _SAMPLE_OVERHEAD


def _check_split(split_options: SplitOptions, labels: Labels) -> None:
    """Refuse early what would fail in the last step."""
    image_ids = [record.image_id for record in labels.images]
    num_groups, held = len(image_ids), counted(len(image_ids), "image")
    if split_options.groups_file is not None:
        num_groups = len(np.unique(read_groups_file(split_options.groups_file, image_ids)))
        held += f" in {counted(num_groups, 'group')}"
    if split_options.split_file is not None:
        read_split_file(split_options.split_file, image_ids)
    elif split_options.split == "severstal-classic":
        class_ids = [labels.class_ids(image_id) for image_id in image_ids]
        columns = range(1, len(labels.class_names) + 1)
        if None not in class_ids:  # else only the masks can tell, later
            severstal_classic(image_ids, np.array([[k in (ids or ()) for k in columns] for ids in class_ids]))
    elif num_groups < split_options.folds:
        raise InputError(f"{held} cannot fill {split_options.folds} folds; give a smaller --folds")


def shuffled(records: Iterable[ImageRecord], seed: int) -> list[ImageRecord]:
    """Images in the order in which they go into shards."""
    return sorted(records, key=lambda record: _shuffle_key(seed, record.image_id))


def _shuffle_key(seed: int, image_id: str) -> bytes:
    return hashlib.blake2b(image_id.encode(), key=seed.to_bytes(8, "little", signed=True)).digest()


def _fingerprints(options: Options, labels: Labels, sizes: dict[str, int]) -> tuple[str, str]:
    """Of all, and of what shards depend on."""
    split_file, groups_file = options.split_options.split_file, options.split_options.groups_file
    class_ids = [labels.class_ids(record.image_id) for record in labels.images]
    content = {
        "options": options.recorded(),
        "class_names": labels.class_names,
        "images": [(record.image_id, sizes[record.image_id]) for record in labels.images],
        "format": labels.format,
        "labels": _digest_labels(options, labels),
        "classes": [None if ids is None else sorted(ids) for ids in class_ids],
        "split_file": None if split_file is None else storage.digest_file(split_file),
        "groups_file": None if groups_file is None else storage.digest_file(groups_file),
    }
    of_shards = {name: value for name, value in content.items() if name not in ("split_file", "groups_file")}
    of_shards["options"] = {k: v for k, v in options.recorded().items() if k not in SplitOptions.NOT_IN_SHARDS}
    return _digest(content), _digest(of_shards)


def _digest(content: dict[str, Any]) -> str:
    return f"{_FINGERPRINT_VERSION}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"


def are_comparable(one: str, other: str) -> bool:
    """Whether two fingerprints are of the same things; else that they differ says nothing."""
    return one.partition("-")[0] == other.partition("-")[0]


def _digest_labels(options: Options, labels: Labels) -> str | list[tuple[str, str]]:
    """What tells whether labels have changed: a file's hash; of a folder each file that can be labels, with its hash.

    Not with its size, which a corrected digit leaves as it is, nor with its time: copies of a folder, on the machines
    that write parts of a job, make the same shards. Masks are small, and other labels have just been read. Of files in
    a store it is what the store says of their versions, if anything, as each hash would be a request.
    """
    url = options.labels
    if not storage.is_folder(url):
        if not url.lower().endswith(TABLES):
            return storage.digest_file(url)
        url = folder_of_table(url)
    start, root = len(storage.join(options.images, "")), storage.full_path(options.images)
    images = {root + record.url[start:] for record in labels.images}
    folder, out = storage.full_path(url), storage.full_path(options.out)
    files = [
        file
        for file in storage.list_files(url, labels.suffixes)
        if folder + file.path not in images and not (folder + file.path).startswith(out)
    ]
    is_remote = storage.is_remote(url)

    def tell(file: FileInfo) -> tuple[str, str]:
        return file.path, (is_remote and file.version) or storage.digest_file(storage.join(url, file.path))

    told: list[tuple[str, str]] = []
    with ThreadPoolExecutor(_READS) as pool:
        for i in range(0, len(files), _READS_AHEAD):
            told += pool.map(tell, files[i : i + _READS_AHEAD])
    return told
