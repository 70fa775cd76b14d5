"""The weights that may be shipped: the best epochs, kept on disk while training goes on."""

import contextlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from steel.checkpoint import digest_tensors
from steel.errors import InputError
from steel.storage import write_bytes
from train.engine.batch_plan import PhasePlan
from train.engine.loop_state import LoopState, TopCheckpoint
from train.engine.state import RECORD, read_progress

logger = logging.getLogger("train.fit")

_DIGEST = "sha256"
"""Key of the weights' checksum in the metadata of their file."""


def name_at(progress: LoopState) -> str:
    """The file of the weights at this moment of the run."""
    return f"{progress.phase:06d}-{progress.step:08d}.safetensors"


class TopCheckpoints:
    """`top_checkpoints/` of a run folder: one safetensors file a kept epoch."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def offer(
        self, plan: PhasePlan, progress: LoopState, score: float, *, write: Mapping[str, torch.Tensor] | None
    ) -> bool:
        """Keep the weights just scored if they are among the `keep` best so far; whether they are.

        Args:
            write: the weights, on the rank that writes files; None on the others, which only keep the books.
        """
        name = name_at(progress)
        candidate = TopCheckpoint(score, name, plan.number, round(plan.epoch_at(progress.step), 2))
        others = [c for c in progress.candidates if c.file != name]
        # An equal score later in training wins: it has seen more.
        ranked = sorted([candidate, *others], key=lambda c: (-c.score, -c.phase, -c.epoch))[: self.keep]
        if candidate not in ranked:
            return False
        if write is not None:
            self._write(name, write)
        progress.candidates = ranked
        return True

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        held = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        data = save(held, metadata={_DIGEST: digest_tensors(held)})
        try:
            self.folder.mkdir(exist_ok=True)
            write_bytes(self.folder / name, data)
        except OSError as error:
            raise InputError(
                f"could not keep {self.folder / name}: {error}; free space or mend the folder, then resume"
            ) from error

    def read(self, candidate: TopCheckpoint) -> dict[str, torch.Tensor]:
        """The weights of `candidate`.

        Raises:
            InputError: its file is missing or damaged.
        """
        path = self.folder / candidate.file
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                digest = (file.metadata() or {}).get(_DIGEST)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        if digest != digest_tensors(tensors):
            raise InputError(f"{path}: damaged, its weights do not match their checksum")
        return tensors

    def readable(self, progress: LoopState) -> list[TopCheckpoint]:
        """The candidates that can still be read; a line of the log for each that cannot."""
        found = []
        for candidate in progress.candidates:
            try:
                self.read(candidate)
            except InputError as error:
                logger.warning("%s; it cannot be shipped", error)
            else:
                found.append(candidate)
        return found

    def prune(self, states: Path, progress: LoopState) -> None:
        """Remove files that neither `progress` nor any saved state could ship."""
        if not self.folder.is_dir():
            return
        needed = {c.file for c in progress.candidates} | set(_named_in(states.glob(f"*/{RECORD}")))
        for path in self.folder.iterdir():
            if path.name not in needed:
                with contextlib.suppress(OSError):  # the next time, then
                    path.unlink()


def _named_in(records: Iterable[Path]) -> Iterable[str]:
    for path in records:
        try:
            progress = read_progress(path.parent)
        except InputError:
            continue  # a damaged or just pruned state ships nothing
        yield from (candidate.file for candidate in progress.candidates)
