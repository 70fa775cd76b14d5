"""The weights that may be shipped: those of the best validations, kept on disk while training goes on."""

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from steel.checkpoint import digest_tensors
from steel.errors import InputError
from steel.storage import write_bytes

logger = logging.getLogger("train.fit")

_DIGEST = "sha256"
"""Key of the weights' checksum in the metadata of their file."""


@dataclass(frozen=True)
class TopCheckpoint:
    """The weights of one validation, which stand in the file of this name."""

    score: float
    phase: int
    step: int
    """Steps of the phase that these weights have seen."""
    epoch: float
    """The same in passes over the phase's data."""

    def __post_init__(self) -> None:
        for name, value in (("phase", self.phase), ("step", self.step)):
            if not 0 <= value < 1 << 53:
                raise InputError(f"the {name} of a top checkpoint is {value}")

    @property
    def file(self) -> str:
        """Name inside the run folder's `top_checkpoints/`."""
        return f"{self.phase:06d}-{self.step:08d}.safetensors"


class TopCheckpoints:
    """The best weights so far, ranked alike on every rank; rank 0's `StateWriter` writes and removes their files."""

    def __init__(self, folder: Path, keep: int, ranked: Sequence[TopCheckpoint] = ()) -> None:
        """Go on from those that an earlier attempt has `ranked`.

        Args:
            folder: `top_checkpoints/` of the run folder, with one safetensors file for each; made when it is needed.
            keep: how many at most.
            ranked: best first.
        """
        self._folder = folder
        self._keep = keep
        self._ranked = tuple(ranked)

    @property
    def ranked(self) -> tuple[TopCheckpoint, ...]:
        """Best first."""
        return self._ranked

    def offer(self, offered: TopCheckpoint) -> bool:
        """Rank the weights of a validation; whether they are among the best so far, and so must be written."""
        others = [kept for kept in self._ranked if kept.file != offered.file]
        # An equal score later in training wins: it has seen more.
        best = sorted([offered, *others], key=lambda each: (-each.score, -each.phase, -each.epoch))[: self._keep]
        if offered not in best:
            return False
        self._ranked = tuple(best)
        return True

    def write(self, kept: TopCheckpoint, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the file of these weights.

        Raises:
            InputError: it could not be written.
        """
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        data = save(held, metadata={_DIGEST: digest_tensors(held)})
        try:
            self._folder.mkdir(exist_ok=True)
            write_bytes(self._folder / kept.file, data)
        except OSError as error:
            raise InputError(
                f"could not keep {self._folder / kept.file}: {error}; free space or mend the folder, then resume"
            ) from error

    def read(self, kept: TopCheckpoint) -> dict[str, torch.Tensor]:
        """The weights.

        Raises:
            InputError: their file is missing or damaged.
        """
        path = self._folder / kept.file
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                digest = (file.metadata() or {}).get(_DIGEST)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        if digest != digest_tensors(tensors):
            raise InputError(f"{path}: damaged, its weights do not match their checksum")
        return tensors

    def readable(self) -> list[TopCheckpoint]:
        """Those that can still be read, best first; a line of the log for each that cannot."""
        found = []
        for kept in self._ranked:
            try:
                self.read(kept)
            except InputError as error:
                logger.warning("%s; it cannot be shipped", error)
            else:
                found.append(kept)
        return found

    def prune(self, ranked: Collection[TopCheckpoint], spared: Collection[str]) -> None:
        """Remove all files but those of `ranked` and those `spared`, which saved states may still ship."""
        if not self._folder.is_dir():
            return
        needed = {kept.file for kept in ranked} | set(spared)
        for path in self._folder.iterdir():
            if path.name not in needed:
                with contextlib.suppress(OSError):  # the next time, then
                    path.unlink()
