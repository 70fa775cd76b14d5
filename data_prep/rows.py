"""What one shard tells the last step: its rows of the index and what duplicates, mean and deviation need.

One such file a shard is also the mark that the shard is complete: it is written after the tar has its final name, and
ends with a hash of itself: an index is made of what it says.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.duplicates import SIGNATURE_DTYPE
from data_prep.pixels import PixelSums
from steel import storage
from steel.arrow_file import columns_of, read_batch
from steel.shards.checks import sample_checks
from steel.shards.format import index_schema
from steel.shards.tiles import TileGrid, image_starts, tiles_fault

_LATER = ("fold", "group")  # known only when all shards are


@dataclass(frozen=True)
class ShardRows:
    """The rows of one finished tar."""

    size: int
    """Bytes of the tar."""
    sha256: str
    fingerprint: str
    """Of the plan it belongs to: what its shards depend on."""
    table: pa.Table


def rows_schema(num_classes: int, *, tiled: bool = False) -> pa.Schema:
    """The index's columns but for fold and group, then what only the last step reads.

    Args:
        num_classes: C.
        tiled: samples are tiles of images; what the last step reads is then the image's in each of its tiles.
    """
    schema = index_schema(num_classes, tiled=tiled)
    extra = [
        ("is_gray", pa.bool_()),
        ("sums", pa.list_(pa.int64(), 3)),
        ("squares", pa.list_(pa.int64(), 3)),
        ("signature", pa.binary()),
        ("orientation", pa.uint8()),
    ]
    kept = [column for column in schema if column.name not in _LATER]
    return pa.schema(kept + [pa.field(name, kind, nullable=False) for name, kind in extra])


def measured(sums: PixelSums, signature: bytes, orientation: int) -> dict[str, Any]:
    """The extra columns of a row; the orientation is that of the file's EXIF."""
    return {
        "is_gray": sums.is_gray,
        "sums": sums.sums,
        "squares": sums.squares,
        "signature": signature,
        "orientation": orientation,
    }


def write_rows(url: str, rows: ShardRows, staging: str) -> None:
    """Write the mark of a finished shard, atomically: an Arrow file, and behind it the sha256 of its bytes."""
    facts = {"size": str(rows.size), "sha256": rows.sha256, "fingerprint": rows.fingerprint}
    table = rows.table.replace_schema_metadata(facts).combine_chunks()
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    data = buffer.getvalue()
    storage.write_bytes(url, data + hashlib.sha256(data).digest(), staging=staging)


def read_rows(url: str, num_classes: int, *, tiled: bool = False) -> ShardRows | None:
    """The rows of a finished shard; None when it is not finished, or its mark is damaged: it is then written again."""
    try:
        content = storage.read_bytes(url)
    except FileNotFoundError:
        return None
    data, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        return None
    try:
        batch = read_batch(pa.py_buffer(data), rows_schema(num_classes, tiled=tiled))
        facts = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
        table = pa.Table.from_batches([batch.replace_schema_metadata(None)])
        return ShardRows(int(facts["size"]), facts["sha256"], facts["fingerprint"], table)
    except (ValueError, KeyError):
        return None


_DIGEST_BYTES = hashlib.sha256().digest_size


def are_sound(
    rows: ShardRows,
    shard: int,
    image_ids: Sequence[str],
    *,
    some_ignored: bool,
    with_signatures: bool,
    tile: TileGrid | None,
) -> bool:
    """Whether the last step may rely on a shard's rows.

    Args:
        rows: as read.
        shard: its number.
        image_ids: of the images that it must hold, in order.
        some_ignored: whether pixels of masks may be ignored.
        with_signatures: whether duplicates will be looked for.
        tile: how images are cut; None where each is a sample.
    """
    columns = columns_of(rows.table.to_batches()[0])
    sizes = np.full(rows.table.num_rows, rows.size, np.int64)
    height, width = (columns[name if tile is None else f"image_{name}"] for name in ("height", "width"))
    pixels = (height.astype(np.int64) * width)[:, None]
    sums, squares = columns["sums"], columns["squares"]
    lengths = {len(signature) for signature in rows.table["signature"].to_pylist()}
    return (
        all(sound.all() for _, sound in sample_checks(columns, sizes, some_ignored))
        and (tile is None or tiles_fault(columns, tile) is None)
        and rows.table["image_id"].to_pylist() == _repeated(image_ids, columns, tile)
        and (columns["shard"] == shard).all()
        and bool(((sums >= 0) & (sums <= 255 * pixels) & (squares >= 0) & (squares <= 255**2 * pixels)).all())
        and (lengths == {SIGNATURE_DTYPE.itemsize} or (lengths == {0} and not with_signatures))
    )


def _repeated(image_ids: Sequence[str], columns: Mapping[str, np.ndarray], tile: TileGrid | None) -> list[str]:
    """The image of each sample, where so many samples are to hold these images; none when they cannot."""
    if tile is None:
        return list(image_ids)
    lengths = np.diff(image_starts(columns), append=len(columns["top"]))
    return np.repeat(np.array(image_ids, object), lengths).tolist() if len(lengths) == len(image_ids) else []
