"""How the full Severstal set is stored and trained, and what that follows from."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.__main__ import main as shard


@dataclass(frozen=True)
class Recipe:
    """How each of the splits is trained."""

    preset: str
    weights: str | None
    """As `--model.weights`; the preset's own when None."""
    size: str | None
    """HxW that images are stored at, for rehearsals; their own when None."""

    @property
    def is_rehearsal(self) -> bool:
        """Its figures say nothing of the real thing."""
        return self.preset in ("smoke", "demo") or self.size is not None

    @property
    def words(self) -> list[str]:
        """Of the command line."""
        weights = [] if self.weights is None else ["--model.weights", self.weights]
        return ["--preset", self.preset, *weights, "--tracking.tracker", "none"]


def make_shards(images: Path, labels: Path, out: Path, recipe: Recipe, options: Sequence[str]) -> None:
    """Shard a folder of images in this process.

    Args:
        images: the folder.
        labels: Kaggle's table.
        out: of the shards.
        recipe: has the size.
        options: of `python -m data_prep`, of the folds.

    Raises:
        SystemExit: it has failed, or was stopped, with its exit code.
    """
    size = () if recipe.size is None else ("--resize", recipe.size)
    code = shard(["--images", str(images), "--labels", str(labels), "--out", str(out), *size, *options])
    if code != 0:
        sys.exit(code)


def asked_of_shards(source: Path, recipe: Recipe, names: Sequence[str]) -> list[str]:
    """What shards follow from, in words: how they are trained on is no part of it."""
    size = [] if recipe.size is None else ["--size", recipe.size]
    labels = hashlib.sha256((source / "train.csv").read_bytes()).hexdigest()
    return [*size, f"of {len(names):,} images", f"with a train.csv of sha256 {labels}"]
