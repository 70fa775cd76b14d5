"""`history.jsonl`: one JSON record a line, in the order of training, whatever tracker is on or down."""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from steel.errors import InputError
from steel.plain import from_dict, parse_json
from steel.storage import open_write


class History:
    """A run's records: appended line by line, taken back beyond a resumed position.

    A record has at least `kind` (`train`, `validation`, ...) and its training position, `phase` and `step`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def open_at(self, phase: int, step: int, *, validated: bool = True) -> None:
        """Open for appending at a training position; records beyond it are dropped, as they will be written again.

        So are that of a validation at the position itself, unless it is `validated`, and those behind it.
        The file is replaced as a whole, so a crash leaves either the old records or the new ones. A last line that a
        crash cut short is dropped as well.

        Raises:
            InputError: a line in the middle is no record.
        """
        self.close()
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []

        def is_beyond(record: Mapping[str, Any]) -> bool:
            place = record["phase"], record["step"]
            is_open = not validated and record["kind"] == "validation"
            return place > (phase, step) or (place == (phase, step) and is_open)

        records = list(self._parse(lines))  # those beyond the position have to be sound, too
        kept = [line for line, _ in itertools.takewhile(lambda each: not is_beyond(each[1]), records)]
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
                record = parse_json(line)
                _check_record(record)
            except InputError as error:
                raise InputError(
                    f"{self.path}: line {number} is not a record of a run ({error}); mend or remove the file"
                ) from error
            yield line, record


@dataclass(frozen=True)
class _Place:
    """What every record has."""

    kind: str
    phase: int
    step: int
    global_step: int


def _check_record(record: Any) -> None:
    """Raises InputError unless a record has its place, and values that can be drawn."""
    if not isinstance(record, dict):
        raise InputError("no object")
    found = {name: record[name] for name in ("kind", "phase", "step", "global_step") if name in record}
    place = from_dict(_Place, {"global_step": 0, **found})
    if not all(0 <= number < 1 << 53 for number in (place.phase, place.step, place.global_step)):
        raise InputError("a phase or step that cannot be")
    values = list(record.values())
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int | float) and not abs(value) < 1e300:
            raise InputError("a number beyond all bounds")


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
