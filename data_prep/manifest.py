"""The last step: duplicates, folds, index and manifest, from the rows of all shards."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from data_prep.duplicates import group_duplicates, join_groups
from data_prep.gray_levels import fold_levels, image_levels
from data_prep.options import SplitOptions
from data_prep.pixels import mean_and_std
from data_prep.rows import ShardRows
from data_prep.splits import read_groups_file, read_split_file, severstal_classic, straddling_groups
from steel import storage
from steel.errors import InputError, counted, list_some, told_url
from steel.folds import assign_folds, put_large_last
from steel.images.exif import TURNED_ADVICE, UPRIGHT, told_turned
from steel.images.mixed import MIXED_ADVICE, odd_colours, told_mixed
from steel.images.pixel_format import EIGHT_BITS, Depth
from steel.labels.classes import number_classes
from steel.metrics.bootstrap import FEWEST_IMAGES
from steel.shards.checks import manifest_fault
from steel.shards.format import (
    DUPLICATES_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    MaskCoding,
    ShardInfo,
    write_index,
)
from steel.shards.tiles import TileGrid, image_starts

MIN_STD = 1 / 255
"""Least standard deviation that images are normalised with: one gray level.

A channel that varies less tells nothing that rounding to 8 bits has not made; divided by its own deviation it would be
amplified noise, or, where it is constant, no number at all.
"""


@dataclass(frozen=True)
class Summary:
    """What became of a job, for people."""

    manifest: Manifest
    fold_sizes: tuple[int, ...]
    remarks: tuple[str, ...]
    """Lines on duplicates, and warnings."""

    def lines(self) -> list[str]:
        """A short text."""
        manifest = self.manifest
        classes = ", ".join(f"{n} {name}" for name, n in zip(manifest.class_names, manifest.num_positive, strict=True))
        return [
            f"{manifest.held()} in {counted(len(manifest.shards), 'shard')}: {manifest.num_clean} clean, {classes}",
            f"{'gray' if manifest.channels == 1 else 'colour'}, mean {_figures(manifest.mean)}, "
            f"standard deviation {_figures(manifest.std)}",
            *([] if manifest.depth == EIGHT_BITS else [f"images of 16 bits are read by {manifest.depth}"]),
            f"{'folds' if len(self.fold_sizes) > 1 else 'one fold'} of {', '.join(map(str, self.fold_sizes))} images",
            *self.remarks,
        ]


def draft_manifest(
    class_names: Sequence[str],
    *,
    ignore_bit: int | None,
    options: dict[str, Any],
    mask_coding: MaskCoding = "bitmask",
    ignore_value: int | None = None,
    depth: Depth = EIGHT_BITS,
    tile: TileGrid | None = None,
) -> Manifest:
    """A manifest with everything that is known before the images are counted."""
    return Manifest(
        class_names=tuple(class_names),
        num_samples=0,
        num_positive=(),
        num_clean=0,
        channels=3,
        mean=(),
        std=(),
        ignore_bit=ignore_bit,
        folds=0,
        num_groups=0,
        seed=0,
        shards=(),
        index_size=0,
        index_sha256="",
        mask_coding=mask_coding,
        ignore_value=ignore_value,
        depth=depth,
        tile=tile,
        options=options,
    )


def write_manifest(
    out: str,
    draft: Manifest,
    names: Sequence[str],
    shards: Sequence[ShardRows],
    split_options: SplitOptions,
    *,
    staging: Path | None = None,
) -> Summary:
    """Write `duplicates.json`, `index.arrow` and last of all `manifest.json`.

    Args:
        out: Folder or URL of the shards.
        draft: A manifest with the classes, how masks are coded and the options; everything counted is filled in here.
        names: Of the tars, relative to `out`.
        shards: Their rows, in the same order.
        split_options: How to group and deal the images.
        staging: Local folder for unfinished files; see `storage.open_write`.

    Raises:
        InputError: a split that does not fit the images.
    """
    table = pa.concat_tables([shard.table for shard in shards])
    images, num_tiles = _images_of(table, is_tiled=draft.tile is not None)
    image_ids = images["image_id"].to_pylist()
    classes = images["areas"].combine_chunks().flatten().to_numpy().reshape(-1, draft.num_classes) > 0
    given = None if split_options.groups_file is None else read_groups_file(split_options.groups_file, image_ids)
    groups = np.arange(images.num_rows, dtype=np.int32)
    lines: list[str] = []
    if split_options.group_duplicates:
        groups, lines = group_images(images["signature"].to_pylist(), image_ids, out, staging)
    if given is not None:
        groups = join_groups(groups, given)
        lines.append(_told_groups(given, str(split_options.groups_file)))
    if split_options.is_dealt:
        _check_groups(groups, out, split_options)
    folds = _deal(image_ids, groups, classes, split_options)
    leaking = straddling_groups(groups, folds)
    if len(leaking):
        of = "duplicates" if split_options.groups_file is None else "images that belong together"
        few = f"{len(leaking)} groups of {of} lie" if len(leaking) > 1 else f"a group of {of} lies"
        lines.append(f"warning: {few} in more than one fold of the given split")

    if split_options.is_dealt:
        lines += _remarks_on_large_groups(groups, folds, split_options)
    if given is not None:
        lines += _remarks_on_few_groups(groups, folds)
    dealt = np.repeat(folds, num_tiles), np.repeat(groups, num_tiles)
    index_size, index_sha256 = _write_index(out, table, *dealt, draft.index_schema, staging)
    num_pixels, sums, squares = _pixels_of(images)
    channels, mean, std = _normalisation(images, num_pixels, sums, squares)
    lines += [*_remarks_on_flat(std), *_remarks_on_absent(draft, classes)]
    lines += _remarks_on_turned(image_ids, images["orientation"].to_numpy())
    lines += _remarks_on_mixed(image_ids, images["is_gray"].to_pylist())
    fold_sizes = np.bincount(folds)
    manifest = replace(
        draft,
        num_samples=table.num_rows,
        num_images=None if draft.tile is None else images.num_rows,
        num_positive=tuple(classes.sum(0).tolist()),
        num_clean=int((~classes.any(1)).sum()),
        channels=channels,
        mean=mean,
        std=tuple(max(value, MIN_STD) for value in std),
        folds=len(fold_sizes),
        num_groups=len(np.unique(groups)),
        seed=split_options.seed,
        shards=tuple(
            ShardInfo(name, shard.table.num_rows, shard.size, shard.sha256)
            for name, shard in zip(names, shards, strict=True)
        ),
        index_size=index_size,
        index_sha256=index_sha256,
        fold_levels=fold_levels(image_levels(sums, num_pixels), folds, len(fold_sizes)),
    )
    save_manifest(out, manifest, staging)
    return Summary(manifest, tuple(fold_sizes.tolist()), tuple(lines))


def save_manifest(out: str, manifest: Manifest, staging: Path | None) -> None:
    """Write the manifest of a set of which all else is written: with that, it is finished."""
    fault = manifest_fault(manifest)
    assert fault is None, fault
    storage.write_bytes(storage.join(out, MANIFEST_NAME), manifest.to_json().encode(), staging=staging)


def _images_of(table: pa.Table, *, is_tiled: bool) -> tuple[pa.Table, np.ndarray]:
    """The rows of images, and of how many samples each consists, (N,) int64: of tiles, those of what they make up."""
    if not is_tiled:
        return table, np.ones(table.num_rows, np.int64)
    starts = image_starts({name: table[name].to_numpy() for name in ("top", "left")})
    images = table.take(starts)
    for name in ("height", "width", "areas", "ignored"):
        images = images.set_column(images.schema.get_field_index(name), name, images[f"image_{name}"])
    return images, np.diff(starts, append=table.num_rows)


def group_images(
    signatures: Sequence[bytes], image_ids: Sequence[str], out: str, staging: Path | None
) -> tuple[np.ndarray, list[str]]:
    """The group of each image, (N,) int32, and what to say of duplicates; all of it goes to `duplicates.json`."""
    groups, report = group_duplicates(signatures)
    text = json.dumps(report.to_dict(image_ids), indent=1) + "\n"
    storage.write_bytes(storage.join(out, DUPLICATES_NAME), text.encode(), staging=staging)
    return groups, [*report.told(), *(f"warning: {warning}" for warning in report.warnings(image_ids))]


def _told_groups(groups: np.ndarray, url: str) -> str:
    """What a file with groups (N,) says: a name that is written in two ways shows as images that are alone."""
    sizes = np.bincount(groups)
    alone = int((sizes == 1).sum())
    return f"{told_url(url)}: {counted(len(sizes) - alone, 'group')} of images that belong together, {alone:,} alone"


def _remarks_on_large_groups(groups: np.ndarray, folds: np.ndarray, options: SplitOptions) -> list[str]:
    """A line where a group is larger than an even fold: what is to judge and what trains is then up to it."""
    largest, even = int(np.bincount(groups).max()), len(folds) / (int(folds.max()) + 1)
    if largest <= even:
        return []
    advice = "give --groups that are smaller, if you can"
    if options.group_duplicates:
        advice = f"see {DUPLICATES_NAME}: where these are different pieces, --no-group-duplicates leaves it to --groups"
    why = f"{largest} of {len(folds)} images belong together, more than the {even:.0f} of an even fold"
    return [f"warning: {why}; {advice}"]


def _remarks_on_few_groups(groups: np.ndarray, folds: np.ndarray) -> list[str]:
    """A line where folds have too few groups for an interval of their scores."""
    numbers = [len(np.unique(groups[folds == fold])) for fold in range(int(folds.max()) + 1)]
    few = [f"{fold} ({number})" for fold, number in enumerate(numbers) if number < FEWEST_IMAGES]
    if not few:
        return []
    told = f"fewer than {FEWEST_IMAGES} groups lie in folds {', '.join(few)}"
    lost = "scores of these will have no interval, and no thresholds be tuned on one"
    return [f"warning: {told}: {lost}; give fewer --folds, or images of more groups"]


def _write_index(
    out: str, table: pa.Table, folds: np.ndarray, groups: np.ndarray, schema: pa.Schema, staging: Path | None
) -> tuple[int, str]:
    """Write the index; returns its size in bytes and its sha256."""
    for name, column in (("fold", folds), ("group", groups)):
        field = schema.field(name)
        table = table.append_column(field, pa.array(column, field.type))
    return save_index(out, table.select(schema.names), staging)


def save_index(out: str, table: pa.Table, staging: Path | None) -> tuple[int, str]:
    """Write the rows of a set as its index; returns its size in bytes and its sha256."""
    with storage.open_write(storage.join(out, INDEX_NAME), staging=staging) as file:
        write_index(table, file)
        size = file.tell()
        file.seek(0)
        return size, hashlib.file_digest(file, "sha256").hexdigest()


def _check_groups(groups: np.ndarray, out: str, options: SplitOptions) -> None:
    """Refuse folds of which some would be empty, and say what made the groups.

    Raises:
        InputError: fewer groups than folds.
    """
    num_groups = len(np.unique(groups))
    if num_groups >= options.folds:
        return
    held, advice = f"{counted(len(groups), 'image')} in {counted(num_groups, 'group')}", "give a smaller --folds"
    if options.groups_file is not None:
        advice += ", or --groups that are smaller"
    if options.group_duplicates:
        held += " of near-duplicates" if options.groups_file is None else ", of --groups and near-duplicates,"
        found = told_url(storage.join(out, DUPLICATES_NAME))
        advice += f", or, where those of {found} are different pieces, --no-group-duplicates"
    raise InputError(f"{held} cannot fill {options.folds} folds: {advice}")


def _deal(image_ids: list[str], groups: np.ndarray, classes: np.ndarray, split_options: SplitOptions) -> np.ndarray:
    """The fold of each image (N,)."""
    if split_options.split_file is not None:
        return read_split_file(split_options.split_file, image_ids)
    if split_options.split == "severstal-classic":
        return severstal_classic(image_ids, classes)
    return put_large_last(assign_folds(image_ids, groups, classes, split_options.folds, split_options.seed), groups)


def _pixels_of(images: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The number of pixels of each image (N,), and their sums and sums of squares (N, 3); all int64."""
    num_pixels = images["height"].to_numpy().astype(np.int64) * images["width"].to_numpy()
    sums, squares = (images[name].combine_chunks().flatten().to_numpy().reshape(-1, 3) for name in ("sums", "squares"))
    return num_pixels, sums, squares


def _normalisation(
    images: pa.Table, num_pixels: np.ndarray, sums: np.ndarray, squares: np.ndarray
) -> tuple[Literal[1, 3], tuple[float, ...], tuple[float, ...]]:
    """Channels, mean and standard deviation of all pixels; see `_pixels_of`."""
    channels: Literal[1, 3] = 1 if all(images["is_gray"].to_pylist()) else 3
    totals = [[int(total) for total in per_image.sum(0)[:channels]] for per_image in (sums, squares)]
    return channels, *mean_and_std(int(num_pixels.sum()), *totals)


def _remarks_on_flat(std: Sequence[float]) -> list[str]:
    """A line where channels hardly vary."""
    flat = [name for name, value in zip(("red", "green", "blue")[-len(std) :], std, strict=True) if value < MIN_STD]
    if not flat:
        return []
    which = "the images hardly vary" if len(std) == 1 else f"the channels {', '.join(flat)} hardly vary"
    return [f"warning: {which}; they are normalised with a deviation of one gray level, 1/255"]


def _remarks_on_turned(image_ids: Sequence[str], orientations: np.ndarray) -> list[str]:
    """A line where EXIF asks viewers to turn images: tools that follow it drew their labels on another picture."""
    turned = [image_ids[i] for i in np.flatnonzero(orientations != UPRIGHT).tolist()]
    return [f"warning: {told_turned(turned)}: {list_some(turned, 3)}; {TURNED_ADVICE}"] if turned else []


def _remarks_on_mixed(image_ids: Sequence[str], are_gray: Sequence[bool]) -> list[str]:
    """A line where gray images and such in colour lie together: a slip of one file makes the network's input larger."""
    odd = [image_ids[i] for i in odd_colours(are_gray)]
    return [f"warning: {told_mixed(are_gray)}: {list_some(odd, 3)}; {MIXED_ADVICE}"] if odd else []


def _remarks_on_absent(draft: Manifest, classes: np.ndarray) -> list[str]:
    """A line where classes (N, C) are in no image."""
    absent = [name for k, name in enumerate(draft.class_names) if not classes[:, k].any()]
    if not absent:
        return []
    if len(absent) < draft.num_classes:
        last, held = draft.class_names[-1], int(classes[:, -1].sum())
        is_numbered = held and draft.class_names == number_classes([draft.num_classes]).names
        why = f"; they come of {last}, in {counted(held, 'image')}: if that is a slip, mend it, or give --class-names"
        return [f"warning: no image has {', '.join(absent)}{why if is_numbered else ''}"]
    threshold = draft.options.get("mask_threshold")
    below = "" if threshold is None else f": no value of any mask reaches --mask-threshold {threshold:g}"
    return [f"warning: every image is clean{below}"]


def _figures(values: Sequence[float]) -> str:
    return "/".join(f"{value:.3f}" for value in values)
