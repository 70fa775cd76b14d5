"""What must hold between the values of a manifest and of its index: readers rely on all of it and check nothing again.

Bytes are another matter: checksums see to them, sample by sample.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from steel.errors import printable
from steel.folds import MAX_FOLDS
from steel.images.pixel_format import MAX_PIXELS
from steel.labels.classes import MAX_CLASSES, name_fault
from steel.shards.tiles import image_starts, tiles_fault

if TYPE_CHECKING:
    from steel.shards.format import Manifest, ShardInfo

_MAX_ROWS = 2**31 - 1
_ROWS_AT_A_TIME = 1 << 18
"""Rows checked together, so that a large index needs little memory for it."""


def manifest_fault(manifest: "Manifest") -> str | None:
    """What in a manifest does not fit together; None when a reader may rely on it."""
    shards = manifest.shards
    return (
        name_fault(manifest.class_names)
        or _mask_fault(manifest)
        or _count_fault(manifest)
        or _pixel_fault(manifest)
        or _tile_fault(manifest)
        or next((fault for fault in map(shard_fault, shards) if fault), None)
        or _first(
            (len({shard.name for shard in shards}) < len(shards), "two shards have one name"),
            (sum(s.num_samples for s in shards) != manifest.num_samples, "the shards hold another number of samples"),
            (manifest.index_size < 1 or not _is_sha256(manifest.index_sha256), "no size and sha256 of the index"),
        )
        or _level_fault(manifest)
    )


def _first(*checks: tuple[bool, str]) -> str | None:
    """Of pairs (whether something is wrong, what) the first that is."""
    return next((what for is_wrong, what in checks if is_wrong), None)


def _mask_fault(manifest: "Manifest") -> str | None:
    num_classes, bit, value = manifest.num_classes, manifest.ignore_bit, manifest.ignore_value
    useless = value is not None and (bit is None or manifest.mask_coding != "labels")
    return _first(
        (num_classes + (bit is not None) > MAX_CLASSES, f"{num_classes} classes and ignored pixels do not fit a mask"),
        (
            bit not in (None, 7 if num_classes <= 7 else 15),
            f"bit {bit} for ignored pixels beside {num_classes} classes",
        ),
        (useless, "an ignored value where no pixels are ignored"),
        (value is not None and not num_classes < value < 1 << 16, f"{value} as the value of ignored pixels"),
        (manifest.mask_coding == "binary" and num_classes != 1, "binary masks of more than one class"),
    )


def _count_fault(manifest: "Manifest") -> str | None:
    num_samples, positive = manifest.num_samples, manifest.num_positive
    num_images = num_samples if manifest.num_images is None else manifest.num_images
    within = all(0 <= count <= num_images for count in (manifest.num_clean, *positive))
    return _first(
        (not 0 < num_samples <= _MAX_ROWS, f"{num_samples} samples"),
        (not 0 < num_images <= num_samples, f"{num_images} images of {num_samples} samples"),
        (len(positive) != manifest.num_classes, f"{len(positive)} counts for {manifest.num_classes} classes"),
        (not within, "counts beyond the number of samples"),
        (not 0 < manifest.folds <= MAX_FOLDS, f"{manifest.folds} folds"),
        (not 0 < manifest.num_groups <= num_images, f"{manifest.num_groups} groups"),
    )


def _tile_fault(manifest: "Manifest") -> str | None:
    tile = manifest.tile
    if tile is None or manifest.num_images is None:
        return _first(
            (
                (tile is None) != (manifest.num_images is None),
                "tiles without a number of images, or such a number alone",
            )
        )
    sides = tile.height, tile.width
    return _first(
        (not all(0 < side <= MAX_PIXELS for side in sides), f"tiles of {tile.height}x{tile.width}"),
        (not 0 <= tile.overlap < min(sides), f"tiles that share {tile.overlap} pixels"),
    )


def _pixel_fault(manifest: "Manifest") -> str | None:
    mean, std, size = manifest.mean, manifest.std, manifest.options.get("resize")
    sides = size if isinstance(size, list) and all(type(side) is int and side > 0 for side in size) else []
    is_size = len(sides) == 2 and math.prod(sides) <= MAX_PIXELS
    return _first(
        (
            not len(mean) == len(std) == manifest.channels,
            f"mean or deviation of other than {manifest.channels} channels",
        ),
        (not all(0 <= value <= 1 for value in (*mean, *std)), "a mean or deviation outside of 0 to 1"),
        (size is not None and not is_size, "options.resize is no height and width"),
    )


def _level_fault(manifest: "Manifest") -> str | None:
    levels = manifest.fold_levels
    if levels is None:
        return None
    num_images = manifest.num_samples if manifest.num_images is None else manifest.num_images
    counts, values = [level.num_images for level in levels], [v for level in levels for v in (level.mean, level.std)]
    return _first(
        (len(levels) != manifest.folds, f"gray levels of {len(levels)} folds, not of {manifest.folds}"),
        (any(count < 0 for count in counts) or sum(counts) != num_images, "gray levels of another number of images"),
        (not all(0 <= value <= 1 for value in values), "gray levels of folds outside of 0 to 1"),
    )


def is_shard_name(name: str) -> bool:
    """Whether a shard may be called so: a relative path that stays in its folder, whatever system reads it."""
    is_plain = printable(name) == name and not re.search(r"[\\:]", name) and name.lower().endswith(".tar")
    # Listings leave hidden files out, and the cache has hidden files of its own beside the shards.
    return is_plain and all(part and part[0] != "." and len(part.encode()) <= 255 for part in name.split("/"))


def shard_fault(shard: "ShardInfo") -> str | None:
    """What is wrong with a shard's entry."""
    name = shard.name
    return _first(
        (not is_shard_name(name), f"{name!r} is no name of a shard"),
        (not 0 <= shard.num_samples <= _MAX_ROWS, f"{name}: {shard.num_samples} samples"),
        (not 0 < shard.size < 1 << 63, f"{name}: {shard.size} bytes"),
        (not _is_sha256(shard.sha256), f"{name}: no sha256"),
    )


def _is_sha256(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def rows_fault(columns: Mapping[str, np.ndarray], manifest: "Manifest") -> str | None:
    """The first row of an index that cannot be: outside its shard, out of order, without a size, ...; None for none.

    Args:
        columns: of numbers, as `Index.columns`.
        manifest: of the set.
    """
    sizes = np.array([shard.size for shard in manifest.shards], np.int64)
    last_shard = 0
    for start in range(0, len(columns["shard"]), _ROWS_AT_A_TIME):
        some = {name: column[start : start + _ROWS_AT_A_TIME] for name, column in columns.items()}
        shard = some["shard"]
        if shard[0] < last_shard or (shard[1:] < shard[:-1]).any() or shard[-1] >= len(sizes):
            return "its rows are not in the order of shards"
        last_shard = shard[-1]
        fold, group = some["fold"], some["group"]
        checks = [
            *sample_checks(some, sizes[shard], manifest.ignore_bit is not None),
            (f"a fold outside of 0 to {manifest.folds - 1}", (fold >= 0) & (fold < manifest.folds)),
            ("an impossible group", (group >= 0) & (group < manifest.num_groups)),
        ]
        for what, sound in checks:
            if not sound.all():
                return f"row {start + int(np.argmin(sound))}: {what}"
    return None if manifest.tile is None else tiles_fault(columns, manifest.tile)


def sample_checks(
    some: Mapping[str, np.ndarray], sizes: np.ndarray, some_ignored: bool
) -> list[tuple[str, np.ndarray]]:
    """What must hold of samples, whatever their set.

    Args:
        some: columns of numbers of n rows.
        sizes: (n,) int64, of their shards in bytes.
        some_ignored: whether pixels may be ignored.

    Returns:
        (what is wrong, (n,) bool where it is not), check by check.
    """
    checks = []
    for member in ("image", "mask", "json"):
        offset, length = some[f"{member}_offset"], some[f"{member}_length"]
        # Differences only: a sum of two numbers that were not looked at yet could wrap around.
        inside = (offset >= 0) & (length >= 0) & (offset <= sizes - length)
        checks.append((f"the {member} does not lie in its shard", inside))
    checks.append(("it has no image", some["image_length"] > 0))
    for kind in ("", "original_"):
        height, width = some[f"{kind}height"], some[f"{kind}width"]
        sound = (height > 0) & (width > 0) & (height.astype(np.int64) * width <= MAX_PIXELS)
        checks.append((f"an image of impossible {kind}size", sound))
    pixels = some["original_height"].astype(np.int64) * some["original_width"]
    ignored = some["ignored"]
    within, marked = np.ones(len(sizes), bool), ignored > 0
    for areas in some["areas"].T:  # several times faster than `min` and `max` along so short an axis
        within &= (areas >= 0) & (areas <= pixels)
        marked |= areas > 0
    limit = pixels if some_ignored else 0
    return [
        *checks,
        ("a class has more pixels than the image", within),
        ("more ignored pixels than there can be", (ignored >= 0) & (ignored <= limit)),
        ("pixels of a class, but no mask", ~marked | (some["mask_length"] > 0)),
    ]


class Total(NamedTuple):
    """Counts that the manifest gives and the index tells."""

    what: str
    expected: list[int]
    found: list[int]


def totals(columns: Mapping[str, np.ndarray], manifest: "Manifest") -> list[Total]:
    """The manifest's counts beside those of an index whose rows are sound."""
    num_rows, num_classes = len(columns["shard"]), manifest.num_classes
    areas, folds, images = columns["areas"], columns["fold"], []
    if manifest.tile is not None:
        starts = image_starts(columns)
        areas, folds = columns["image_areas"][starts], folds[starts]
        images = [Total("images", [manifest.num_images or 0], [len(areas)])]
    if manifest.fold_levels is not None:
        in_folds = [level.num_images for level in manifest.fold_levels]
        images.append(Total("images in each fold", in_folds, np.bincount(folds, minlength=len(in_folds)).tolist()))
    positive, clean = np.zeros(num_classes, np.int64), 0
    for start in range(0, len(areas), _ROWS_AT_A_TIME):
        present = areas[start : start + _ROWS_AT_A_TIME].T > 0
        positive += [np.count_nonzero(row) for row in present]
        clean += present.shape[1] - int(np.count_nonzero(np.logical_or.reduce(present)))
    groups = np.zeros(manifest.num_groups, bool)
    groups[columns["group"]] = True
    per_shard = np.bincount(columns["shard"], minlength=len(manifest.shards)).tolist()
    return [
        Total("samples", [manifest.num_samples], [num_rows]),
        *images,
        Total("samples in each shard", [shard.num_samples for shard in manifest.shards], per_shard),
        Total("images of each class", list(manifest.num_positive), positive.tolist()),
        Total("clean images", [manifest.num_clean], [clean]),
        Total("groups", [manifest.num_groups], [int(np.count_nonzero(groups))]),
    ]
