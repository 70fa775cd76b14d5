"""The shard contract, in both directions: a sample in a tar, a row of the index, the manifest of a set.

A shard folder holds `<prefix>-000000.tar`, ..., `index.arrow` and `manifest.json`. A sample is three members of a tar
under one key: the image's original bytes (`.jpg`, `.png`, ...), its mask (`.mask.png`) and its description (`.json`).
Where images were reduced on purpose, masks keep the original size, so that scores stay exact.
Where large images were cut on purpose, each tile is a sample, and the index says which image it is of, and where.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from steel import storage
from steel.errors import InputError
from steel.images.pixel_format import EIGHT_BITS, Depth
from steel.plain import from_dict, parse_json, to_dict
from steel.shards.checks import manifest_fault
from steel.shards.tiles import TileGrid

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.arrow"
DUPLICATES_NAME = "duplicates.json"
"""Groups of duplicates by name, where they were looked for."""
MASK_EXTENSION = "mask.png"
MEND = "put a sound copy there, or make the shards again with `python -m data_prep` and another --out"
"""What helps where files of a set are missing or damaged."""

MaskCoding = Literal["bitmask", "labels", "binary", "planes"]


@dataclass(frozen=True)
class ShardInfo:
    """One tar of the set."""

    name: str
    """Relative to the folder of the manifest."""
    num_samples: int
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True)
class FoldLevels:
    """How bright the images of a fold are: each the mean of its pixels in all channels, as they are read, in 0..1."""

    num_images: int
    """Whole ones, however many tiles each is stored in."""
    mean: float
    """Over images, whatever their size; 0 where there are none."""
    std: float
    """Likewise: the root of the mean square of what images differ from `mean`."""


@dataclass(frozen=True)
class Manifest:
    """What a reader must know of a whole set; it is written last, so a folder without it is unfinished."""

    class_names: tuple[str, ...]
    num_samples: int
    num_positive: tuple[int, ...]
    """Images with some pixel of each class."""
    num_clean: int
    """Images without any."""
    channels: Literal[1, 3]
    """1 when every image is gray (R = G = B), else 3."""
    mean: tuple[float, ...]
    """Of all pixels as they are read, a channel, in 0..1."""
    std: tuple[float, ...]
    """Likewise, and at least one gray level, 1/255."""
    ignore_bit: int | None
    """Bit of the bitmask that marks pixels without a truth (7 of uint8, 15 of uint16); None when there are none."""
    folds: int
    """Number of folds; the index says which one a sample is in."""
    num_groups: int
    """Of duplicates and of images that are known to belong together, single images included."""
    seed: int
    shards: tuple[ShardInfo, ...]
    index_size: int
    index_sha256: str
    mask_coding: MaskCoding = "bitmask"
    """How masks are stored. All but `bitmask` occur only in tars that somebody else wrote; see `decode_stored_mask`."""
    ignore_value: int | None = None
    """The pixel value of masks coded as `labels` that means ignored."""
    depth: Depth = EIGHT_BITS
    """How images of 16 bits are read; they are stored as they came, unless `--resize` or `--tile` changed them."""
    tile: TileGrid | None = None
    """How images were cut into tiles, each a sample of its own; None where a sample is an image."""
    num_images: int | None = None
    """That the tiles make up; None without tiles. What is counted in images, such as `num_clean`, are these."""
    fold_levels: tuple[FoldLevels, ...] | None = None
    """Of each fold; None where nobody measured them, as in sets that were made before there were any."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the set was made with; for the record."""
    version: int = FORMAT_VERSION

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that `data_prep --resize` gave every image, which new ones must be given too; None without
        it."""
        size = self.options.get("resize")
        return None if size is None else (int(size[0]), int(size[1]))

    @classmethod
    def load(cls, root: str) -> "Manifest":
        """Read the manifest of a shard folder (a path or URL).

        Raises:
            InputError: no manifest there, or one that this version cannot read.
        """
        where = storage.join(root, MANIFEST_NAME)
        try:
            text = storage.read_bytes(where)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{root}: no {MANIFEST_NAME}; make shards with `python -m data_prep` (an unfinished job has none yet)"
            ) from None
        return cls.from_json(text, where)

    @classmethod
    def from_json(cls, text: bytes | str, where: str = MANIFEST_NAME) -> "Manifest":
        """The inverse of `to_json`; readers rely on everything in what it gives.

        Raises:
            InputError: not a manifest, of another format version, or with values that do not go together.
        """
        try:
            values = parse_json(text)
            version = values.get("version") if isinstance(values, dict) else None
            if isinstance(version, int) and version != FORMAT_VERSION:
                raise InputError(f"format version {version}, but this program reads {FORMAT_VERSION}")
            if isinstance(values, dict) and isinstance(values.get("depth", {}), dict):
                values["depth"] = to_dict(EIGHT_BITS) | values.get("depth", {})  # before there was a choice
                values = {"tile": None, "num_images": None, "fold_levels": None} | values
            manifest = from_dict(cls, values)
            fault = manifest_fault(manifest)
            if fault is not None:
                raise InputError(fault)
        except InputError as error:
            raise InputError(f"{where}: not a manifest of shards ({error}); {MEND}") from error
        return manifest

    def to_json(self) -> str:
        """The text of `manifest.json`: the same content gives the same bytes."""
        values = asdict(self)
        if self.tile is None:  # as it was before there were tiles: the digest is a set's identity
            del values["tile"], values["num_images"]
        if self.fold_levels is None:  # likewise
            del values["fold_levels"]
        return json.dumps(values, indent=1, sort_keys=True) + "\n"

    @property
    def digest(self) -> str:
        """The identity of the data set: a sha256 over all content, wherever the folder lies."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def held(self, kind: str = "") -> str:
        """`12 images`, `12 gray images`, or with tiles `12 images in 80 tiles`."""
        images = f"{self.num_samples if self.num_images is None else self.num_images} {kind} images".replace("  ", " ")
        return images if self.tile is None else f"{images} in {self.num_samples} tiles"

    @property
    def index_schema(self) -> pa.Schema:
        """The columns of the set's index."""
        return index_schema(self.num_classes, tiled=self.tile is not None)

    @property
    def num_classes(self) -> int:
        """C: classes are numbered 1 to C."""
        return len(self.class_names)


def index_schema(num_classes: int, *, tiled: bool = False) -> pa.Schema:
    """Columns of `index.arrow`, one row per sample, rows in the order of shards and of samples in them.

    Args:
        num_classes: C.
        tiled: samples are tiles of images (`steel.shards.tiles`).
    """
    columns: list[tuple[str, pa.DataType]] = [
        ("key", pa.string()),
        ("image_id", pa.string()),
        ("image_ext", pa.string()),  # without the dot; <key>.<image_ext> is the member's name
        ("shard", pa.int32()),
    ]
    for member in ("image", "mask", "json"):  # a length of 0: no such member
        columns += [(f"{member}_offset", pa.int64()), (f"{member}_length", pa.int32()), (f"{member}_crc", pa.uint32())]
    columns += [
        ("height", pa.int32()),  # of the stored image, in pixels
        ("width", pa.int32()),
        ("original_height", pa.int32()),  # before --resize, and of the mask; else the same
        ("original_width", pa.int32()),
        ("areas", pa.list_(pa.int32(), num_classes)),  # pixels of each class in the mask
        ("ignored", pa.int32()),  # pixels of the mask without a truth
        ("fold", pa.int16()),
        ("group", pa.int32()),
    ]
    if tiled:
        columns += [
            ("top", pa.int32()),  # of the tile in its image, in pixels
            ("left", pa.int32()),
            ("image_height", pa.int32()),
            ("image_width", pa.int32()),
            ("image_areas", pa.list_(pa.int32(), num_classes)),  # of the whole mask, each pixel once
            ("image_ignored", pa.int32()),
        ]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def write_index(table: pa.Table, file: Any) -> None:
    """Write an index as one uncompressed record batch, so that every column is one memory-mapped array."""
    batch = table.combine_chunks()
    with pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_table(batch, max_chunksize=max(1, batch.num_rows))


def sample_key(image_id: str) -> str:
    """The key of a sample in its tar: the relative path without its extension, dots escaped.

    `coil.7/a.b.jpg` becomes `coil%2E7/a%2Eb`. Two images that differ in their extension alone share a key; writers
    refuse them. Leading double underscores are escaped too: webdataset takes such members for its own.
    """
    stem = re.sub(r"\.[^./]*$", "", image_id)
    key = stem.replace("%", "%25").replace(".", "%2E")
    return "%5F" + key[1:] if key.startswith("__") else key
