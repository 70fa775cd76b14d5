"""CSV files by path or URL, as people, databases and spreadsheets write them: one reader of all tables and lists."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from steel import storage
from steel.errors import InputError
from steel.validation_errors import Issue, raise_issues

csv.field_size_limit(2**31 - 1)  # a mask with many runs is longer than the 128 KiB that `csv` allows by itself


class CsvRow(NamedTuple):
    """One row of a table."""

    line: int
    """Of the file, from 1."""
    cells: tuple[str, ...]
    """One for each column of the table's form, in that order."""


@dataclass(frozen=True)
class CsvTable:
    """A file whose header is one of the forms that were asked for."""

    columns: tuple[str, ...]
    """The header as it stands in the file."""
    form: tuple[str, ...]
    """The same names, in the order in which they were asked for."""
    rows: list[CsvRow]
    issues: list[Issue]
    """Rows that do not have a cell for each column."""


def read_table(url: str, *forms: tuple[str, ...]) -> CsvTable:
    """Read a table whose columns are those of one of `forms`, in any order.

    Raises:
        InputError: no such file, not text, or another header.
    """
    rows = read_rows(url)
    header = next(rows, CsvRow(1, ()))
    columns = tuple(name.strip() for name in header.cells)
    form = next((form for form in forms if sorted(form) == sorted(columns)), None)
    if form is None:
        expected = " or ".join(f"`{','.join(form)}`" for form in forms)
        raise InputError(f"{url}: {_header_fault(columns)}, expected {expected}")
    order = [columns.index(name) for name in form]
    table = CsvTable(columns, form, [], [])
    for row in rows:
        if len(row.cells) == len(columns) and not any(_BREAK.search(cell) for cell in row.cells):
            table.rows.append(CsvRow(row.line, tuple(row.cells[at] for at in order)))
        else:
            table.issues.append(malformed(row))
    return table


def _header_fault(columns: tuple[str, ...]) -> str:
    """What is wrong with a header that is none of the forms."""
    if not columns:
        return "the file is empty"
    shown = ",".join(columns)[:80]
    separator = next((name for mark, name in _OTHER_SEPARATORS.items() if mark in shown), None)
    if len(columns) > 1 or separator is None:
        return f"the header is `{shown}`"
    return f"the header is `{shown}`, with {separator} between the columns where commas are wanted"


_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}
"""As Excel writes them where the comma is the decimal mark."""
_BREAK = re.compile("[\\r\\n\\0]")
"""In a cell: a quotation mark before it was never closed, or the file is no text."""


def read_rows(url: str) -> Iterator[CsvRow]:
    """The rows of a CSV file in UTF-8, with or without a byte-order mark; those without any text are left out.

    Raises:
        InputError: no such file, or not text.
    """
    try:
        data = storage.read_bytes(url)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError(f"{url}: in UTF-16, as a spreadsheet's `Unicode text`; save it as `CSV UTF-8`")
        text = data.decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{url}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{url}: not a text file in UTF-8, such as a spreadsheet's `CSV UTF-8`") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    line = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield CsvRow(line, tuple(fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{url}: line {line}: {error}") from error


def read_names(url: str) -> list[str]:
    """The names in a list: one a line, no header.

    Raises:
        ValidationErrors: lines with more than a name.
        InputError: no such file, or not text.
    """
    rows = list(read_rows(url))
    raise_issues([malformed(row) for row in rows if len(row.cells) != 1], f"in {url}; give one name a line")
    return [row.cells[0].strip() for row in rows]


def malformed(row: CsvRow) -> Issue:
    """A row that is none, by its line."""
    return Issue("malformed rows", f"line {row.line} ({','.join(row.cells)[:40]})")


def whole_number(text: str) -> int | None:
    """The number from 0 on that a cell holds; None when it holds none.

    `3.0` is 3: pandas writes whole numbers so where a column also has empty cells.
    """
    found = re.fullmatch(r"\s*([0-9]{1,18})(?:\.0*)?\s*", text)
    return int(found[1]) if found else None
