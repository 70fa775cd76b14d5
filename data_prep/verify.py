"""Check a shard folder against its manifest, down to every mask: `python -m data_prep.verify SHARDS`."""

import hashlib
import json
import sys
import tarfile
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_prep.arguments import add_executor_arguments
from data_prep.pixels import ignored_area
from data_prep.tile_check import TileCheck
from steel import storage
from steel.arrow_file import columns_of, read_batch
from steel.commands.common import Parser
from steel.errors import counted, run_program, told_url
from steel.executors import open_executor
from steel.images.bitmask import mask_areas
from steel.images.decode import decode_image
from steel.shards.checks import Total, rows_fault, totals
from steel.shards.format import INDEX_NAME, MANIFEST_NAME, Manifest
from steel.shards.mask_codec import decode_stored_mask
from steel.stopping import end_if_stopped

_BLOCK = 1 << 24
_MEMBERS = ("image", "mask", "json")


@dataclass(frozen=True)
class Fault:
    """Something that is not as the manifest or the index says."""

    where: str
    """The file, and the sample in it where one is at fault."""
    what: str
    hides_samples: bool = False
    """Without this being right, samples cannot be looked at one by one."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class _ShardCheck:
    root: str
    number: int
    manifest: Manifest
    rows: slice
    """Of the index."""


def verify(root: str, executor: Executor) -> list[Fault]:
    """Compare every byte, offset, count and mask of a shard folder with its manifest and index.

    Args:
        root: Path or URL of the folder.
        executor: Runs one task a shard.

    Returns:
        All faults, in the order of shards; empty when the folder is sound.

    Raises:
        InputError: there is no manifest to compare with.
    """
    manifest = Manifest.load(root)
    _load_index.cache_clear()
    faults = _check_index(root, manifest)
    rows = [slice(0, 0)] * len(manifest.shards)
    if not any(fault.hides_samples for fault in faults):
        index = _load_index(root, manifest.index_schema, manifest.index_sha256)
        faults += _check_totals(manifest, index)
        ends = np.searchsorted(index["shard"].to_numpy(), np.arange(len(manifest.shards)), side="right").tolist()
        rows = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    checks = [_ShardCheck(root, number, manifest, rows[number]) for number in range(len(manifest.shards))]
    futures = {executor.submit(_check_shard, check): check.number for check in checks}
    found: dict[int, list[Fault]] = {}
    with tqdm(total=manifest.num_samples, unit="image", desc="verifying") as bar:
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            bar.update(manifest.shards[futures[future]].num_samples)
    return faults + [fault for number in sorted(found) for fault in found[number]]


def _check_index(root: str, manifest: Manifest) -> list[Fault]:
    """The index as a file, before anything in it is believed."""
    faults: list[Fault] = []
    try:
        with storage.mapped(storage.join(root, INDEX_NAME)) as data:
            faults = _check_bytes(INDEX_NAME, data, manifest.index_size, manifest.index_sha256)
        index = _load_index(root, manifest.index_schema, manifest.index_sha256)
    except FileNotFoundError:
        return [Fault(INDEX_NAME, "missing", hides_samples=True)]
    except (OSError, ValueError) as error:
        return [*faults, Fault(INDEX_NAME, f"cannot be read ({error})", hides_samples=True)]
    fault = rows_fault(columns_of(index), manifest)
    return faults if fault is None else [*faults, Fault(INDEX_NAME, fault, hides_samples=True)]


@lru_cache(maxsize=1)
def _load_index(root: str, schema: pa.Schema, sha256: str) -> pa.RecordBatch:
    """The index, once a process: mapped when local. The hash only tells one index from another.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    url = storage.join(root, INDEX_NAME)
    if storage.is_remote(url):
        data = pa.py_buffer(storage.read_bytes(url))
    else:
        data = pa.memory_map(str(storage.local_path(url))).read_buffer()
    return read_batch(data, schema)


def _check_totals(manifest: Manifest, index: pa.RecordBatch) -> list[Fault]:
    """The manifest's counts against the index."""
    keys = index["key"].to_pylist()
    compared = [*totals(columns_of(index), manifest), Total("different keys", [len(keys)], [len(set(keys))])]
    return [
        Fault(MANIFEST_NAME, f"number of {total.what}: expected {total.expected}, found {total.found}")
        for total in compared
        if total.expected != total.found
    ]


def _check_bytes(name: str, tar: memoryview, size: int, sha256: str) -> list[Fault]:
    if len(tar) != size:
        return [Fault(name, f"{len(tar)} bytes, expected {size}")]
    digest = hashlib.sha256()
    for start in range(0, size, _BLOCK):
        digest.update(tar[start : start + _BLOCK])
    return [] if digest.hexdigest() == sha256 else [Fault(name, "wrong sha256")]


def _check_shard(check: _ShardCheck) -> list[Fault]:
    """Everything about one tar and its samples."""
    shard = check.manifest.shards[check.number]
    try:
        with storage.mapped(storage.join(check.root, shard.name)) as tar:
            faults = _check_bytes(shard.name, tar, shard.size, shard.sha256)
            tiles = None if check.manifest.tile is None else TileCheck(check.manifest)
            for row in _rows(check):
                end_if_stopped()
                what = _check_sample(tar, row, check.manifest, tiles)
                if what is not None:
                    faults.append(Fault(f"{shard.name}: sample {row['key']} ({row['image_id']})", what))
            return faults
    except FileNotFoundError:
        return [Fault(shard.name, "missing")]
    except OSError as error:  # the other shards are worth looking at
        return [Fault(shard.name, f"cannot be read ({error.strerror or error})")]


def _rows(check: _ShardCheck) -> list[dict[str, Any]]:
    if check.rows.stop == 0:
        return []
    index = _load_index(check.root, check.manifest.index_schema, check.manifest.index_sha256)
    return index.slice(check.rows.start, check.rows.stop - check.rows.start).to_pylist()


def _check_sample(tar: memoryview, row: dict[str, Any], manifest: Manifest, tiles: TileCheck | None) -> str | None:
    """What is wrong with a sample first of all, by itself or beside the other tiles of its image; None for nothing."""
    members = _members(tar, row)
    if isinstance(members, str):
        return members
    try:
        image = decode_image(members["image"], manifest.channels, manifest.depth)
        bitmask = decode_stored_mask(manifest, members["mask"], row["original_height"], row["original_width"])
    except ValueError as error:
        return str(error)
    if image.shape[:2] != (row["height"], row["width"]):
        return f"the image is {image.shape[0]}x{image.shape[1]}, the index says {row['height']}x{row['width']}"
    fault = _check_mask(bitmask, row, manifest) or _check_description(members["json"], row, manifest)
    return fault if fault or tiles is None else tiles.add(row, image, bitmask)


def _members(tar: memoryview, row: dict[str, Any]) -> dict[str, bytes] | str:
    """The bytes of a sample, or what is wrong with them."""
    members: dict[str, bytes] = {}
    for kind in _MEMBERS:
        offset, length = row[f"{kind}_offset"], row[f"{kind}_length"]
        data = bytes(tar[offset : offset + length]) if length else b""
        if len(data) != length:
            return f"the {kind} lies beyond the end of the shard"
        if length and zlib.crc32(data) != row[f"{kind}_crc"]:
            return f"wrong checksum of the {kind}"
        if length and not _header_matches(tar, row, kind):
            return f"the {kind} does not start where the index says"
        members[kind] = data
    return members


def _header_matches(tar: memoryview, row: dict[str, Any], kind: str) -> bool:
    """Whether a tar header of the right name and length stands right before a member."""
    header = bytes(tar[row[f"{kind}_offset"] - tarfile.BLOCKSIZE : row[f"{kind}_offset"]])
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    if info.size != row[f"{kind}_length"]:
        return False
    # long or foreign names may stand in a member of their own before this header
    plain = row["key"].isascii() and len(row["key"]) < 80
    return not plain or info.name.startswith(f"{row['key']}.")


def _check_mask(bitmask: np.ndarray, row: dict[str, Any], manifest: Manifest) -> str | None:
    areas = mask_areas(bitmask, manifest.num_classes)
    if areas != row["areas"]:
        return f"the mask covers {areas} pixels of the classes, the index says {row['areas']}"
    ignored = ignored_area(bitmask, manifest.ignore_bit)
    if ignored != row["ignored"]:
        return f"the mask ignores {ignored} pixels, the index says {row['ignored']}"
    bits = np.bitwise_or.reduce(bitmask, axis=None)
    known = (1 << manifest.num_classes) - 1 | (0 if manifest.ignore_bit is None else 1 << manifest.ignore_bit)
    if int(bits) & ~known:
        return f"the mask has bits beyond the {manifest.num_classes} classes"
    return None


def _check_description(data: bytes, row: dict[str, Any], manifest: Manifest) -> str | None:
    """Our own description must agree with the index; that of others may say anything."""
    if manifest.mask_coding != "bitmask" or not data:
        return None
    names = ["image_id", "height", "width", "original_height", "original_width", "areas"]
    names += ["top", "left", "image_height", "image_width"] if manifest.tile is not None else []
    try:
        said = json.loads(data)
        wrong = [name for name in names if said[name] != row[name]]
    except (ValueError, KeyError, TypeError):
        return "the description cannot be read"
    return f"the description and the index differ in {', '.join(wrong)}" if wrong else None


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns 1 when something is wrong."""
    parser = Parser(
        prog="python -m data_prep.verify",
        description="Check a shard folder against its manifest, down to every mask. Exit code 1: something is wrong.",
    )
    parser.add_argument("shards", help="folder or URL of the shards")
    add_executor_arguments(parser)

    def run() -> int:
        arguments = parser.parse_args(argv)
        with open_executor(arguments.executor, arguments.workers) as executor:
            faults = verify(arguments.shards, executor)
        for fault in faults:
            print(fault)  # noqa: T201
        print(f"{told_url(arguments.shards)}: {counted(len(faults), 'fault') if faults else 'sound'}")  # noqa: T201
        return 1 if faults else 0

    return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
