"""Tables of the Arrow format in memory or mapped: checked as a whole before anything in them is looked up."""

import numpy as np
import pyarrow as pa


def read_batch(data: pa.Buffer, schema: pa.Schema, *, trusted: bool = False) -> pa.RecordBatch:
    """The rows of an Arrow file, as views of `data`.

    Args:
        data: The whole file.
        schema: Its columns; metadata may differ.
        trusted: This very file was checked before: leave out what touches every row.

    Returns:
        One batch without a missing value, whose offsets and texts are sound; none of its columns is a copy.

    Raises:
        ValueError: anything else; says what is wrong.
    """
    try:
        reader = pa.ipc.open_file(data)
        if reader.schema.remove_metadata() != schema:
            raise ValueError("it has other columns")
        if reader.num_record_batches > 1:
            raise ValueError("it has more than one batch of rows")
        batch = reader.get_batch(0) if reader.num_record_batches else pa.RecordBatch.from_pylist([], reader.schema)
        batch.validate(full=not trusted)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error
    for name, column in zip(schema.names, batch.columns, strict=True):
        parts = [column, column.values] if pa.types.is_fixed_size_list(column.type) else [column]
        if any(part.null_count for part in parts):
            raise ValueError(f"its column {name} has missing values")
        if batch.num_rows and not all(_lies_in(buffer, data) for buffer in column.buffers() if buffer is not None):
            raise ValueError("it is compressed")
    return batch


def columns_of(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """The columns of numbers as arrays, (N,) or (N, k) for lists of k; views."""
    columns = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_fixed_size_list(field.type):
            values = column.values.to_numpy(zero_copy_only=True)  # `flatten` first imports all of Arrow's functions
            width = field.type.list_size
            columns[field.name] = values[: len(column) * width].reshape(len(column), width)
        elif pa.types.is_integer(field.type):
            columns[field.name] = column.to_numpy(zero_copy_only=True)
    return columns


def _lies_in(inner: pa.Buffer, outer: pa.Buffer) -> bool:
    return inner.size == 0 or outer.address <= inner.address <= outer.address + outer.size - inner.size
