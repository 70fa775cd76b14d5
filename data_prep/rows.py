"""What one shard tells the last step: its rows of the index and what duplicates, mean and deviation need.

One such file a shard is also the mark that the shard is complete: it is written after the tar has its final name.
"""

import io
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.pixels import PixelSums
from steel.data import storage
from steel.data.samples import index_schema

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
    """Write the mark of a finished shard, atomically."""
    facts = {"size": str(rows.size), "sha256": rows.sha256, "fingerprint": rows.fingerprint}
    table = rows.table.replace_schema_metadata(facts)
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    storage.write_bytes(url, buffer.getvalue(), staging=staging)


def read_rows(url: str) -> ShardRows | None:
    """The rows of a finished shard; None when it is not finished."""
    try:
        table = pa.ipc.open_file(pa.py_buffer(storage.read_bytes(url))).read_all()
    except FileNotFoundError:
        return None
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    return ShardRows(int(facts["size"]), facts["sha256"], facts["fingerprint"], table.replace_schema_metadata(None))
