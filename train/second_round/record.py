"""What the steps of a round that are done do not say themselves: whose images were labelled, what was evaluated."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steel import storage
from steel.errors import InputError
from steel.plain import from_dict, parse_json, to_dict

RECORD = "round.json"


@dataclass(frozen=True)
class Record:
    """round.json: what the steps that are done do not say themselves."""

    unlabelled: str
    """As `storage.full_path` has it and `told_url` tells it."""
    judged: dict[str, dict[str, Any]]
    """What finished evaluations were of, by the names of the checkpoints."""

    @classmethod
    def load(cls, out: str) -> "Record | None":
        """That of an output folder; None where none is begun.

        Raises:
            InputError: it is damaged.
        """
        path = Path(storage.join(out, RECORD))
        try:
            return from_dict(cls, parse_json(path.read_bytes()))
        except FileNotFoundError:
            return None
        except InputError as error:
            raise InputError(f"{path}: cannot be read ({error}); choose another --out") from error

    def without(self, name: str) -> "Record":
        """The same but for the evaluation of a checkpoint."""
        return Record(self.unlabelled, {other: judged for other, judged in self.judged.items() if other != name})

    def save(self, out: str) -> None:
        """Write it."""
        storage.write_text(storage.join(out, RECORD), json.dumps(to_dict(self), indent=1) + "\n")
