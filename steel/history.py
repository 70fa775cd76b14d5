"""`history.jsonl`: one JSON record a line, in the order of training, whatever tracker is on or down."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from steel.data.storage import open_write
from steel.errors import InputError


class History:
    """A run's records: appended line by line, taken back beyond a resumed position.

    A record has at least `kind` (`train`, `validation`, ...) and its training position, `phase` and `step`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def open_at(self, phase: int, step: int, *, validated: bool = True) -> None:
        """Open for appending at a training position; records beyond it are dropped, as they will be written again.

        So are those of a validation at the position itself, unless it is `validated`.
        The file is replaced as a whole, so a crash leaves either the old records or the new ones. A last line that a
        crash cut short is dropped as well.

        Raises:
            InputError: a line in the middle is no record.
        """
        self.close()
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []

        def stands(record: Mapping[str, Any]) -> bool:
            place = record["phase"], record["step"]
            return place < (phase, step) or (place == (phase, step) and (validated or record["kind"] != "validation"))

        kept = [line for line, record in self._parse(lines) if stands(record)]
        if kept != lines:
            with open_write(self.path) as file:
                file.writelines(kept)
        self._file = open(self.path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - open until `close`

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; validations, far apart and dear, are also flushed to the disk.

        Numbers that JSON does not know (NaN, infinities) become null.
        """
        assert self._file is not None, "open_at comes first"
        self._file.write(json.dumps(_plain(record), allow_nan=False) + "\n")
        if record.get("kind") == "validation":
            os.fsync(self._file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """All records written so far; none when there is no file.

        Raises:
            InputError: a line in the middle is no record.
        """
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        return [record for _, record in self._parse(lines)]

    def close(self) -> None:
        """Close the file; `open_at` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parse(self, lines: list[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
        for number, line in enumerate(lines, start=1):
            if number == len(lines) and not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                _ = record["phase"], record["step"]
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"{self.path}: line {number} is not a record of a run; mend or remove the file"
                ) from error
            yield line, record


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
