"""Command-line arguments that the programs of this package share."""

import argparse
import os
import re

from data_prep.depth import Percentiles, parse_depth
from data_prep.options import SplitOptions
from steel.errors import InputError
from steel.executors import EXECUTOR_KINDS
from steel.images.pixel_format import EIGHT_BITS, Depth
from steel.option_values import positive, seed, whole
from steel.shards.tiles import TileGrid


def add_executor_arguments(group: argparse._ActionsContainer) -> None:
    """`--workers` and `--executor`, for every program that runs in parallel."""
    group.add_argument("--workers", type=positive, metavar="N", default=_num_cores(), help="parallel workers")
    group.add_argument(
        "--executor", choices=EXECUTOR_KINDS, default="process", help="what the workers are on this machine"
    )


def _num_cores() -> int:
    """Cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_split_arguments(group: argparse._ActionsContainer) -> None:
    """How images are dealt to folds, for every program that writes an index."""
    group.add_argument("--folds", type=whole, default=SplitOptions.folds, metavar="K", help="number of folds")
    group.add_argument(
        "--seed", type=seed, metavar="S", default=SplitOptions.seed, help="of folds and of the order in shards"
    )
    group.add_argument(
        "--split",
        choices=("stratified", "severstal-classic"),
        default=SplitOptions.split,
        help="stratified: by class, duplicates together; severstal-classic: the published 9048 / 2263 / 1257 images "
        "as folds 2 / 0 / 1",
    )
    group.add_argument("--split-file", metavar="CSV", help="a given split, with the header image,fold")
    group.add_argument(
        "--groups",
        metavar="CSV",
        help="images that belong together (of one coil, piece or place) and share a fold, with the header image,group",
    )
    group.add_argument(
        "--group-duplicates",
        action=argparse.BooleanOptionalAction,
        default=SplitOptions.group_duplicates,
        help="find images that are equal or nearly so, also flipped or turned, and keep them in one fold; of images "
        "with hardly any texture only exact copies are found, and of one gray level none",
    )


def split_options_from(arguments: argparse.Namespace) -> SplitOptions:
    """The inverse of `add_split_arguments`."""
    return SplitOptions(
        folds=arguments.folds,
        seed=arguments.seed,
        split=arguments.split,
        split_file=arguments.split_file,
        group_duplicates=arguments.group_duplicates,
        groups_file=arguments.groups,
    )


def add_depth_argument(group: argparse._ActionsContainer) -> None:
    """`--depth`, for every program that writes a manifest."""
    group.add_argument(
        "--depth",
        nargs="+",
        metavar="RULE",
        help="how images of 16 bits are read, in training and prediction alike. window LOW HIGH: LOW becomes 0, HIGH "
        "255 (0 4095 for a 12-bit camera); percentile P Q: a window between two percentiles of the set (0.1 99.9); "
        "high-byte: the upper 8 bits. Without it they are refused",
    )


def depth_from(arguments: argparse.Namespace) -> Depth | Percentiles:
    """The inverse of `add_depth_argument`.

    Raises:
        InputError: no rule that is known.
    """
    return EIGHT_BITS if arguments.depth is None else parse_depth(arguments.depth)


def add_tile_arguments(group: argparse._ActionsContainer) -> None:
    """`--tile` and `--tile-overlap`."""
    group.add_argument(
        "--tile",
        type=parse_size,
        metavar="HxW",
        help="store larger images as overlapping tiles of this height and width, as 1024x1024, without loss; folds, "
        "scores and predictions are of whole images all the same",
    )
    group.add_argument(
        "--tile-overlap",
        type=whole,
        metavar="N",
        help="pixels that neighbouring tiles share at least; a quarter of a tile's shorter side by default",
    )


def tile_from(arguments: argparse.Namespace) -> TileGrid | None:
    """The inverse of `add_tile_arguments`.

    Raises:
        InputError: an overlap of no tiles.
    """
    if arguments.tile is None:
        if arguments.tile_overlap is not None:
            raise InputError(f"--tile-overlap {arguments.tile_overlap}: give --tile HxW, too")
        return None
    overlap = min(arguments.tile) // 4 if arguments.tile_overlap is None else arguments.tile_overlap
    return TileGrid(arguments.tile[0], arguments.tile[1], overlap)


def parse_size(text: str) -> tuple[int, int]:
    """`HxW` as two numbers."""
    found = re.fullmatch(r"0*([1-9]\d*)x0*([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give height and width in pixels, as 128x800")
    return int(found[1]), int(found[2])


def parse_part(text: str) -> tuple[int, int]:
    """`K/N` as two numbers, K from 1 to N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: give K/N with K from 1 to N, as 1/8")
    return int(found[1]), int(found[2])
