"""Index tars that somebody else wrote, so that our reader reads them: `python -m data_prep.index TARS`."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import get_args

from tqdm import tqdm

from data_prep.arguments import (
    add_depth_argument,
    add_executor_arguments,
    add_split_arguments,
    depth_from,
    split_options_from,
)
from data_prep.depth import Percentiles
from data_prep.manifest import Summary, draft_manifest, write_manifest
from data_prep.options import SplitOptions
from data_prep.rows import ShardRows
from data_prep.splits import read_group_names
from data_prep.webdataset_import import ForeignTask, index_tar
from steel import storage
from steel.commands.common import Parser
from steel.errors import InputError, run_program, told_url
from steel.executors import open_executor
from steel.labels.arguments import add_class_arguments
from steel.labels.classes import MAX_CLASSES, parse_class_names
from steel.labels.csv_file import read_table
from steel.shards.checks import is_shard_name
from steel.shards.format import MANIFEST_NAME, Manifest, MaskCoding
from steel.validation_errors import Issue, ValidationErrors, raise_issues


def index_tars(
    root: str,
    draft: Manifest,
    executor: Executor,
    split_options: SplitOptions,
    *,
    image_extension: str | None = None,
    mask_extension: str | None = None,
    missing_is_clean: bool = False,
) -> Summary:
    """Write an index and a manifest beside the tars of a folder; the tars stay as they are.

    Args:
        root: Folder or URL of the tars.
        draft: Says the classes and how masks are coded.
        executor: Runs one task a tar.
        split_options: How to group and deal the images.
        image_extension: Of the members that are images; the usual ones when None.
        mask_extension: Likewise for masks.
        missing_is_clean: A sample without a mask has no defect; else that is a mistake.

    Raises:
        ValidationErrors: names that no shard can have; unusable tars and samples, all at once.
        InputError: no tars there, or there is a manifest already.
    """
    if storage.exists(storage.join(root, MANIFEST_NAME)):
        raise InputError(f"{root}: has a {MANIFEST_NAME} already; remove it to index the tars anew")
    names = [file.path for file in storage.list_files(root, (".tar",))]
    if not names:
        raise InputError(f"{root}: no .tar files there (compressed ones cannot be read at random; unpack them)")
    odd = [Issue("names that no shard can have", name) for name in names if not is_shard_name(name)]
    raise_issues(odd, f"in {told_url(root)}; rename what has ':' or '\\' in it, or more than 255 bytes")
    tasks = [
        ForeignTask(
            number,
            name,
            storage.join(root, name),
            draft,
            image_extension,
            mask_extension,
            missing_is_clean,
            with_signatures=split_options.group_duplicates,
        )
        for number, name in enumerate(names)
    ]
    futures = [executor.submit(index_tar, task) for task in tasks]
    shards: list[ShardRows] = []
    issues: list[Issue] = []
    for future in tqdm(futures, unit="tar", desc="indexing"):
        try:
            shards.append(future.result())
        except ValidationErrors as error:
            issues += error.issues
    raise_issues(issues)
    if not any(shard.table.num_rows for shard in shards):
        raise InputError(f"{root}: its tars hold no sample")
    _refuse_repeated_keys([key for shard in shards for key in shard.table["key"].to_pylist()])
    return write_manifest(root, draft, names, shards, split_options)


def _refuse_repeated_keys(keys: list[str]) -> None:
    if len(set(keys)) < len(keys):
        seen: set[str] = set()
        repeated = sorted({key for key in keys if key in seen or seen.add(key)})  # type: ignore[func-returns-value]
        raise_issues(Issue("keys that stand in the tars more than once", key) for key in repeated)


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m data_prep.index`."""
    parser = Parser(
        prog="python -m data_prep.index",
        description="Index tars in webdataset's convention (an image, a mask and perhaps a .json under one key), so "
        "that they can be read and trained on as they are. Writes index.arrow and manifest.json beside them.",
    )
    parser.add_argument("tars", help="folder or URL of the tars")
    masks = parser.add_argument_group("masks")
    masks.add_argument(
        "--mask-coding",
        choices=get_args(MaskCoding),
        default="labels",
        help="labels: 0 background, k = class k; binary: 0 and anything else; planes: a channel per class; "
        "bitmask: bit k = class k+1",
    )
    masks.add_argument("--image-extension", metavar="EXT", help="of the images, as jpg; the usual ones when left out")
    masks.add_argument("--mask-extension", metavar="EXT", help="of the masks; mask.png, seg.png or png when left out")
    add_class_arguments(masks)
    add_depth_argument(parser.add_argument_group("images"))
    add_split_arguments(parser.add_argument_group("folds"))
    add_executor_arguments(parser.add_argument_group("running"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_program(lambda: _run(build_parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> None:
    if not arguments.class_names:
        raise InputError("--class-names A,B,...: tars do not tell how many classes there are")
    classes = parse_class_names(arguments.class_names)
    if not classes.numbered_from_one:
        raise InputError("--class-names: masks in tars number the classes from 1; give plain names in that order")
    _check_masks(arguments, len(classes))
    _check_tables(split_options_from(arguments))
    depth = depth_from(arguments)
    if isinstance(depth, Percentiles):
        raise InputError(f"--depth {depth}: of tars give window LOW HIGH or high-byte")
    draft = draft_manifest(
        classes.names,
        ignore_bit=(7 if len(classes) <= 7 else 15) if arguments.ignore_value is not None else None,
        mask_coding=arguments.mask_coding,
        ignore_value=arguments.ignore_value,
        depth=depth,
        options={"indexed": True, **split_options_from(arguments).recorded()},
    )
    with open_executor(arguments.executor, arguments.workers) as executor:
        summary = index_tars(
            arguments.tars,
            draft,
            executor,
            split_options_from(arguments),
            image_extension=arguments.image_extension,
            mask_extension=arguments.mask_extension,
            missing_is_clean=arguments.missing_mask == "clean",
        )
    print("\n".join([*summary.lines(), f"indexed {told_url(arguments.tars)}"]))  # noqa: T201


def _check_tables(split_options: SplitOptions) -> None:
    """Refuse early what reading every tar would not mend; whether the tables name the images is known after that.

    Raises:
        ValidationErrors, InputError: of the files of splits and groups.
    """
    if split_options.split_file is not None:
        read_table(split_options.split_file, ("image", "fold"))
    if split_options.groups_file is not None:
        read_group_names(split_options.groups_file)


def _check_masks(arguments: argparse.Namespace, num_classes: int) -> None:
    """Raises InputError for masks that cannot hold the classes."""
    ignored, coding = arguments.ignore_value, arguments.mask_coding
    if ignored is not None and coding != "labels":
        raise InputError("--ignore-value is for --mask-coding labels")
    if coding == "binary" and num_classes > 1:
        raise InputError(f"--mask-coding binary tells one class, not {num_classes}")
    if ignored is None:
        return
    if not num_classes < ignored < 1 << 16:
        raise InputError(
            f"--ignore-value {ignored}: 0 to {num_classes} are the background and the classes, 65535 the end"
        )
    if num_classes == MAX_CLASSES:
        raise InputError(f"{num_classes} classes: at most {MAX_CLASSES - 1} are possible beside ignored pixels")


if __name__ == "__main__":
    sys.exit(main())
