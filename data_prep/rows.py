"""What one shard tells the last step: its rows of the index and what duplicates, mean and deviation need.

One such file a shard is also the mark that the shard is complete: it is written after the tar has its final name, and
ends with a hash of itself: an index is made of what it says.
"""

import hashlib
import io
from collections.abc import Sequence
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

_LATER = ("fold", "group")  # known only when all shards are


@dataclass(frozen=True)
class ShardRows:
    """The rows of one finished tar."""

    size: int
    """Bytes of the tar."""
    sha256: str
    fingerprint: str
    """Of the plan it belongs to."""
    table: pa.Table


def rows_schema(num_classes: int) -> pa.Schema:
    """The index's columns but for fold and group, then what only the last step reads."""
    schema = index_schema(num_classes)
    extra = [
        ("is_gray", pa.bool_()),
        ("sums", pa.list_(pa.int64(), 3)),
        ("squares", pa.list_(pa.int64(), 3)),
        ("signature", pa.binary()),
    ]
    kept = [column for column in schema if column.name not in _LATER]
    return pa.schema(kept + [pa.field(name, kind, nullable=False) for name, kind in extra])


def measured(sums: PixelSums, signature: bytes) -> dict[str, Any]:
    """The extra columns of a row."""
    return {"is_gray": sums.is_gray, "sums": sums.sums, "squares": sums.squares, "signature": signature}


def write_rows(url: str, rows: ShardRows, staging: str) -> None:
    """Write the mark of a finished shard, atomically: an Arrow file, and behind it the sha256 of its bytes."""
    facts = {"size": str(rows.size), "sha256": rows.sha256, "fingerprint": rows.fingerprint}
    table = rows.table.replace_schema_metadata(facts).combine_chunks()
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    data = buffer.getvalue()
    storage.write_bytes(url, data + hashlib.sha256(data).digest(), staging=staging)


def read_rows(url: str, num_classes: int) -> ShardRows | None:
    """The rows of a finished shard; None when it is not finished, or its mark is damaged: it is then written again."""
    try:
        content = storage.read_bytes(url)
    except FileNotFoundError:
        return None
    data, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        return None
    try:
        batch = read_batch(pa.py_buffer(data), rows_schema(num_classes))
        facts = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
        table = pa.Table.from_batches([batch.replace_schema_metadata(None)])
        return ShardRows(int(facts["size"]), facts["sha256"], facts["fingerprint"], table)
    except (ValueError, KeyError):
        return None


_DIGEST_BYTES = hashlib.sha256().digest_size


def are_sound(
    rows: ShardRows, shard: int, image_ids: Sequence[str], *, some_ignored: bool, with_signatures: bool
) -> bool:
    """Whether the last step may rely on a shard's rows.

    Args:
        rows: as read.
        shard: its number.
        image_ids: of the images that it must hold, in order.
        some_ignored: whether pixels of masks may be ignored.
        with_signatures: whether duplicates will be looked for.
    """
    columns = columns_of(rows.table.to_batches()[0])
    sizes = np.full(len(image_ids), rows.size, np.int64)
    pixels = (columns["height"].astype(np.int64) * columns["width"])[:, None]
    sums, squares = columns["sums"], columns["squares"]
    length = SIGNATURE_DTYPE.itemsize if with_signatures else 0
    return (
        rows.table["image_id"].to_pylist() == list(image_ids)
        and (columns["shard"] == shard).all()
        and all(sound.all() for _, sound in sample_checks(columns, sizes, some_ignored))
        and bool(((sums >= 0) & (sums <= 255 * pixels) & (squares >= 0) & (squares <= 255**2 * pixels)).all())
        and {len(signature) for signature in rows.table["signature"].to_pylist()} == {length}
    )
