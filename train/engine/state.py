"""Resumable states: one folder each, staged, fsynced, hashed and renamed, so that a valid one always exists.

    states/000001-00000420/state.json          where the loop stands, which weights are the best so far, the size and
                                               sha256 of the tensors, and a sha256 of itself
                           tensors.safetensors weights, average, optimizer; no pickle

A state under its final name is whole; a state that does not match its own hash is passed over with a warning. One of
another format version is refused: the run would begin anew, and lose what it has trained.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from steel.distributed.runtime import Runtime
from steel.errors import InputError, ResourceError
from steel.plain import from_dict, parse_json, to_dict
from steel.storage import sync_to_disk
from train.engine.loop_state import LoopState
from train.engine.top_checkpoints import TopCheckpoint

logger = logging.getLogger("train.fit")

FORMAT_VERSION = 5
TENSORS = "tensors.safetensors"
RECORD = "state.json"


@dataclass(frozen=True)
class SavedState:
    """One resumable moment of a run."""

    loop: LoopState
    top_checkpoints: tuple[TopCheckpoint, ...]
    """Best first."""
    tensors: Mapping[str, torch.Tensor]

    @property
    def order(self) -> tuple[int, int]:
        """(phase, step): later states compare greater."""
        return self.loop.phase, self.loop.step


def write_state(folder: Path, state: SavedState, keep: int) -> Path:
    """Write `state` into `folder`, then remove all but the `keep` newest; returns its final place.

    Raises:
        StateWriteError: it could not be written.
        OtherVersionError: another program's state is in its place.
    """
    final = folder / "{:06d}-{:08d}".format(*state.order)
    if _is_whole(final):  # by an attempt that was rolled back: the same position holds the same weights
        return final
    staging = folder / f".staging-{final.name}"
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            sync_to_disk(folder.parent)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        # safetensors refuses channels_last.
        tensors = {name: t.contiguous(memory_format=torch.contiguous_format) for name, t in state.tensors.items()}
        save_file(tensors, staging / TENSORS)
        record = {
            "format_version": FORMAT_VERSION,
            "loop": to_dict(state.loop),
            "top_checkpoints": [to_dict(each) for each in state.top_checkpoints],
            "tensors_size": (staging / TENSORS).stat().st_size,
            "tensors_sha256": _sha256(staging / TENSORS),
        }
        text = json.dumps({**record, "sha256": digest_record(record)}, indent=1)
        (staging / RECORD).write_text(text, encoding="utf-8")
        for path in (staging / TENSORS, staging / RECORD, staging):
            sync_to_disk(path)
        shutil.rmtree(final, ignore_errors=True)  # only a damaged one can be there
        staging.rename(final)
        sync_to_disk(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise StateWriteError(f"could not save {final}: {error}; free space or mend the folder, then resume") from error
    with contextlib.suppress(OSError):  # what is not removed now is the next time
        _prune(folder, final, keep)
    return final


def _is_whole(path: Path) -> bool:
    try:
        read_state(path)
    except OtherVersionError:
        raise  # not to be replaced
    except InputError:
        return False
    return True


class StateWriteError(ResourceError):
    """A resumable state could not be written; what was saved before is untouched."""


class OtherVersionError(InputError):
    """A state that another version of this program has written; nothing says that it is damaged."""


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Remove staging leftovers and all but the `keep` states up to `newest`; later ones are of an abandoned attempt.

    States of another version stay: that may go on with them.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    ours = [name for name in names if name.startswith(".") or not _is_of_other_version(folder / name)]
    states = [name for name in ours if not name.startswith(".") and name <= newest.name]
    for name in set(ours) - set(states[-keep:]):
        shutil.rmtree(folder / name, ignore_errors=True)


def _is_of_other_version(path: Path) -> bool:
    try:
        _read_record(path)
    except OtherVersionError:
        return True
    except InputError:
        return False
    return False


def find_newest_state(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest valid state in `folder`, and a line for each newer one that is damaged and was passed over.

    Raises:
        OtherVersionError: no newer one than such a state can be used.
        InputError: none can be used, and one of them could not be read, although it is there.
    """
    skipped: list[InputError] = []
    names = (
        sorted((p.name for p in folder.iterdir() if not p.name.startswith(".")), reverse=True)
        if folder.is_dir()
        else []
    )
    for name in names:
        try:
            read_state(folder / name)
            return folder / name, [str(error) for error in skipped]
        except OtherVersionError:
            raise
        except InputError as error:
            skipped.append(error)
    for passed_over in skipped:
        cause = passed_over.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, _NOT_THERE):
            raise InputError(f"{passed_over}; make it readable, or choose another --out") from cause
    return None, [str(error) for error in skipped]


_NOT_THERE = FileNotFoundError, NotADirectoryError
"""A state that is cut short, or no state."""


def read_state(path: Path) -> SavedState:
    """Read and check one state.

    Raises:
        OtherVersionError: it is of another format version.
        InputError: it is not whole, or cannot be read; names the file and what is wrong.
    """
    record = _read_record(path)
    tensors = path / TENSORS
    try:
        if not tensors.is_file() or tensors.stat().st_size != record.tensors_size:
            raise InputError(f"state {path} is damaged ({TENSORS} does not have its size)")
        if _sha256(tensors) != record.tensors_sha256:
            raise InputError(f"state {path} is damaged ({TENSORS} does not match its hash)")
        return SavedState(record.loop, record.top_checkpoints, load_file(tensors))
    except OSError as error:
        raise InputError(f"state {path} cannot be read ({TENSORS}: {error.strerror or error})") from error
    except SafetensorError as error:
        raise InputError(f"state {path} is damaged ({TENSORS}: {error})") from error


@dataclass(frozen=True)
class _Record:
    """What state.json says."""

    format_version: int
    loop: LoopState
    top_checkpoints: tuple[TopCheckpoint, ...]
    tensors_size: int
    tensors_sha256: str
    sha256: str


def _read_record(path: Path) -> _Record:
    try:
        values = parse_json((path / RECORD).read_bytes())
        version = values.get("format_version") if isinstance(values, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            raise OtherVersionError(
                f"state {path}: made by another version of this program ({RECORD}: format version {version}, this one "
                f"reads {FORMAT_VERSION}); finish the run with that version, or choose another --out"
            )
        record = from_dict(_Record, values)
        if record.sha256 != digest_record({name: value for name, value in values.items() if name != "sha256"}):
            raise InputError("it does not match its hash")
    except OtherVersionError:
        raise
    except (OSError, InputError) as error:
        raise InputError(f"state {path} is not whole ({RECORD}: {error})") from error
    return record


def top_checkpoint_files(folder: Path) -> set[str]:
    """The files of the weights that any state in `folder` could still ship.

    Raises:
        OtherVersionError: one is of another format version, and may ship any of them.
    """
    files: set[str] = set()
    for path in folder.glob(f"[!.]*/{RECORD}"):
        try:
            files |= {kept.file for kept in _read_record(path.parent).top_checkpoints}
        except OtherVersionError:
            raise
        except InputError:  # a damaged or just pruned state ships nothing
            continue
    return files


def digest_record(record: Mapping[str, Any]) -> str:
    """The sha256 that state.json gives of the rest of itself."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def resume_state(runtime: Runtime, folder: Path) -> SavedState | None:
    """The state that all ranks go on from: the newest that rank 0 finds valid; None when there is none.

    Raises:
        SharedError: rank 0 finds states of another version, or none that can be read; see `find_newest_state`.
        InputError: this rank cannot read what rank 0 has read.
    """
    path, passed_over = runtime.on_main(lambda: find_newest_state(folder))
    for line in passed_over:
        logger.warning("%s; passed over", line)
    if path is None:
        return None
    try:
        return read_state(path)
    except InputError as error:
        raise InputError(f"rank {runtime.rank}: {error}; --out must be a folder that all ranks share") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
