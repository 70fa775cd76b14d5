"""What a sharding job is asked to do."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data_prep.depth import Percentiles
from steel.errors import InputError
from steel.folds import MAX_FOLDS
from steel.images.pixel_format import EIGHT_BITS, MAX_RESIZED_SIDE, MAX_SIDE, Depth
from steel.labels.options import AS_FOUND, LabelOptions
from steel.shards.tiles import TileGrid

MIN_TILE = 32
"""The stride of the usual networks: a smaller tile would be padding for the most part."""
_MAX_PREFIX = 200
"""File systems allow names of 255 bytes, and unfinished shards and copies of remote ones add some to theirs."""


@dataclass(frozen=True)
class SplitOptions:
    """How images are grouped and dealt to folds."""

    NOT_IN_SHARDS: ClassVar = frozenset({"folds", "split", "group_duplicates", "groups"})
    """What changes the index and no shard, among the names of `recorded`; the seed orders the images of shards."""

    folds: int = 5
    seed: int = 0
    """From 0, below 2**63."""
    split: Literal["stratified", "severstal-classic"] = "stratified"
    split_file: str | None = None
    """CSV that gives each image its fold; overrides `split`."""
    group_duplicates: bool = True
    groups_file: str | None = None
    """CSV that says which images belong together."""

    def __post_init__(self) -> None:
        if not 1 <= self.folds <= MAX_FOLDS:
            raise InputError(f"--folds {self.folds}: give 1 to {MAX_FOLDS}")
        if self.split_file is not None and self.split != "stratified":
            raise InputError("give either --split or --split-file")

    @property
    def is_dealt(self) -> bool:
        """Whether the images are dealt here, rather than by a split that is given."""
        return self.split_file is None and self.split == "stratified"

    def recorded(self) -> dict[str, Any]:
        """As plain JSON values, without the places of files."""
        return {
            "folds": self.folds,
            "seed": self.seed,
            "split": "file" if self.split_file else self.split,
            "group_duplicates": self.group_duplicates,
            "groups": "file" if self.groups_file else None,
        }


@dataclass(frozen=True)
class Options:
    """Input, output and everything that changes the bytes written."""

    images: str
    """Folder or URL of the images, searched with its subfolders."""
    out: str
    """Folder or URL of the shards."""
    labels: str
    """File, folder or URL of the labels."""
    label_options: LabelOptions = AS_FOUND
    prefix: str = "shard"
    shard_size: int = 500
    """Images a shard."""
    split_options: SplitOptions = SplitOptions()
    resize: tuple[int, int] | None = None
    """Height and width of the stored images; as they are when None."""
    tile: TileGrid | None = None
    """How larger images are cut; they are stored whole when None."""
    depth: Depth | Percentiles = EIGHT_BITS
    """How images of 16 bits become images of 8."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.prefix):
            raise InputError(f"--prefix {self.prefix!r}: use letters, digits, '-', '_' and '.' only")
        if len(self.prefix) > _MAX_PREFIX:
            raise InputError(f"--prefix of {len(self.prefix)} letters: give {_MAX_PREFIX} at most")
        if self.shard_size < 1:
            raise InputError(f"--shard-size {self.shard_size}: must be at least 1")
        if self.resize is not None and not all(1 <= side <= MAX_RESIZED_SIDE for side in self.resize):
            raise InputError(
                f"--resize {self.resize[0]}x{self.resize[1]}: give 1 to {MAX_RESIZED_SIDE:,} pixels a side"
            )
        if self.tile is not None:
            self._check_tile(self.tile)

    def _check_tile(self, tile: TileGrid) -> None:
        sides, least = (tile.height, tile.width), MIN_TILE
        if self.resize is not None:
            raise InputError("--tile and --resize: give one of them; tiles are there to keep every pixel")
        if min(sides) < least:
            raise InputError(
                f"--tile {tile.height}x{tile.width}: give at least {least}x{least}; training cuts its crops from tiles"
            )
        if max(sides) > MAX_SIDE:
            raise InputError(f"--tile {tile.height}x{tile.width}: give {MAX_SIDE:,} pixels a side at most")
        if not 0 <= tile.overlap <= min(sides) // 2:
            raise InputError(
                f"--tile-overlap {tile.overlap}: give 0 to {min(sides) // 2} pixels, half of the tile's shorter side"
            )

    def inputs(self) -> list[str]:
        """All that is read."""
        tables = (self.split_options.split_file, self.split_options.groups_file)
        return [self.images, self.labels, *(url for url in tables if url is not None)]

    def recorded(self) -> dict[str, Any]:
        """What changes the bytes written, without the places of input and output, as plain JSON values."""
        return {
            "prefix": self.prefix,
            "shard_size": self.shard_size,
            **self.label_options.recorded(),
            **self.split_options.recorded(),
            "resize": None if self.resize is None else list(self.resize),
            "tile": None if self.tile is None else [self.tile.height, self.tile.width, self.tile.overlap],
            "depth": str(self.depth),
        }
