"""CSV files by path or URL, as people and spreadsheets write them."""

import csv
import io
from collections.abc import Iterator

from steel.data import storage
from steel.errors import InputError

csv.field_size_limit(2**31 - 1)  # a mask with many runs is longer than the 128 KiB that `csv` allows by itself


def read_csv(url: str) -> tuple[tuple[str, ...], Iterator[tuple[int, list[str]]]]:
    """Read a CSV file in UTF-8, with or without a byte-order mark.

    Returns:
        The header's names, stripped, and an iterator over (line number, fields) of the other rows but blank ones.

    Raises:
        InputError: no such file, or not text.
    """
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{url}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{url}: not a text file in UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    header = tuple(name.strip() for name in next(reader, []))
    return header, ((reader.line_num, fields) for fields in reader if fields)
