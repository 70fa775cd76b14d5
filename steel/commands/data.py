"""Subcommands that need no model: synth, explore, compare, convert."""

import argparse

from steel.commands.common import image_bar, local_file, local_folder, make_way
from steel.errors import InputError, counted, told_url
from steel.extensions import load_extensions
from steel.option_values import number, numbers, seed, whole


def add_synth(commands: argparse._SubParsersAction) -> None:
    """Add `steel synth`."""
    parser = commands.add_parser(
        "synth",
        help="make a Severstal-shaped data set",
        description="Make a synthetic data set in the layout of Kaggle's Severstal (train_images/, train.csv, "
        "test_images/, sample_submission.csv), with the test images' masks in test_truth.csv.",
    )
    add = parser.add_argument
    add("out", metavar="OUT", type=local_folder, help="folder to make")
    add(
        "--num-train",
        type=whole,
        metavar="N",
        help="training images; with --annotations a random part of those annotated",
    )
    add("--num-test", type=whole, metavar="M", default=0, help="test images")
    add("--seed", type=seed, metavar="S", default=0, help="the same seed and options make the same files")
    add("--annotations", metavar="CSV", help="render training images for these masks instead of drawing masks")
    add("--image-ids", metavar="FILE", help="ids to render, one a line; those without a row in --annotations are clean")
    add(
        "--class-share",
        type=numbers,
        metavar="A,B,C,D",
        help="share of images that hold each class; departs from the real frequencies (0.07,0.02,0.41,0.06), "
        "so that small sets have enough of the rare classes",
    )
    add("--defect-share", type=number, metavar="X", help="share of images with any defect (real: 0.53)")
    add("--workers", type=whole, metavar="N", help="processes; all CPUs when not given")
    add("--height", type=whole, metavar="PIXELS", default=256, help="of an image")
    add("--width", type=whole, metavar="PIXELS", default=1600, help="of an image")
    parser.set_defaults(run=_run_synth)


def _run_synth(arguments: argparse.Namespace) -> None:
    from steel.synthetic.dataset import synthesize

    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "run")}
    with image_bar("synth") as on_image:
        made = synthesize(**options, on_image=on_image)
    print(f"{arguments.out}: {'made' if made else 'already there with the same options; nothing to do'}")  # noqa: T201


def add_explore(commands: argparse._SubParsersAction) -> None:
    """Add `steel explore`."""
    parser = commands.add_parser(
        "explore",
        help="look at shards, or at images with labels: one page with pictures, its figures, a table",
        description="Write index.html (self-contained), figures.json and images.csv (a line for every image) about a "
        "shard folder, or about images with labels before they are sharded; predictions are labels, too. What is "
        "conspicuous comes first: duplicates labelled differently, masks of a few pixels, rare classes, odd images.",
    )
    parser.add_argument("shards", metavar="SHARDS", nargs="?", help="folder or URL that data_prep wrote")
    parser.add_argument("--out", required=True, metavar="DIR", type=local_folder, help="folder to write to")
    parser.add_argument(
        "--max-images", type=whole, metavar="N", default=2000, help="random images whose pixels are read"
    )
    parser.add_argument("--seed", type=seed, metavar="S", default=0, help="of that choice")
    parser.add_late = _add_explore_labels
    parser.set_defaults(run=_run_explore)


def _add_explore_labels(parser: argparse.ArgumentParser) -> None:
    from steel.labels.arguments import add_label_arguments

    load_extensions()  # before the options, to which they add
    add_label_arguments(parser.add_argument_group("images with labels, instead of SHARDS"), required=False)


def _run_explore(arguments: argparse.Namespace) -> None:
    from steel import storage
    from steel.labels.arguments import label_options_from
    from steel.labels.load import load_labels
    from steel.labels.options import AS_FOUND
    from steel.reports.explore import EXPLORED, explore
    from steel.reports.explore_data import data_of_labels, data_of_shards

    has_labels = arguments.images is not None and arguments.labels is not None
    options = label_options_from(arguments)
    reads_labels = arguments.images is not None or arguments.labels is not None or options != AS_FOUND
    if (arguments.shards is None) != has_labels or (arguments.shards is not None and reads_labels):
        raise InputError("explore: give either SHARDS, or both --images and --labels")
    written = [str(arguments.out), *(storage.join(arguments.out, name) for name in EXPLORED)]
    storage.check_apart([arguments.shards, arguments.images, arguments.labels], written)
    left_out: tuple[str, ...] = ()
    if has_labels:
        with image_bar("labels") as on_image:
            where = f"{told_url(arguments.images)}, labels {told_url(arguments.labels)}"
            labels = load_labels(arguments.images, arguments.labels, options)
            data = data_of_labels(labels, where, on_image)
            left_out = labels.left_out
    else:
        data = data_of_shards(arguments.shards)
    with image_bar("explore") as on_image:
        found = explore(data, arguments.out, max_images=arguments.max_images, seed=arguments.seed, on_image=on_image)
    for finding in found["findings"]:
        print(finding["title"])  # noqa: T201
    for line in left_out:
        print(line)  # noqa: T201
    print(f"wrote {arguments.out}/{', '.join(EXPLORED[:-1])} and {EXPLORED[-1]}")  # noqa: T201


def add_compare(commands: argparse._SubParsersAction) -> None:
    """Add `steel compare`."""
    parser = commands.add_parser(
        "compare",
        help="hold evaluations or runs side by side",
        description="Say which differences between evaluations exceed the noise, image by image, and which images "
        "changed: a short text here, and a self-contained page.",
    )
    parser.add_argument(
        "evaluated",
        metavar="RUN|REPORT|metrics.json",
        nargs="+",
        help="a finished run's folder, a folder or report.html of train.evaluate, or a metrics.json; the others are "
        "held against the first",
    )
    parser.add_argument(
        "--out",
        metavar="HTML",
        type=local_file,
        default="compare.html",
        help="page to write, and its numbers as .json",
    )
    parser.set_defaults(run=_run_compare)


def _run_compare(arguments: argparse.Namespace) -> None:
    from steel.reports.comparison import compare, format_comparison
    from steel.reports.comparison_page import write_comparison
    from steel.reports.evaluated import files_of

    out = arguments.out
    if out.suffix != ".html":
        raise InputError(f"--out {out}: the name of a page, ending in .html")
    make_way(files_of(arguments.evaluated), [str(out), str(out.with_suffix(".json"))])
    comparison = compare(arguments.evaluated)
    write_comparison(comparison, out)
    print(f"{format_comparison(comparison)}\n\nwrote {out} and {out.with_suffix('.json')}")  # noqa: T201


def add_convert(commands: argparse._SubParsersAction) -> None:
    """Add `steel convert`."""
    parser = commands.add_parser(
        "convert",
        help="write labels of any format in another",
        description="Read labels of any known format and write them in another, every pixel as it was: for a labelling "
        "tool, another program, or to look at them.",
    )
    parser.add_late = _add_convert_arguments
    parser.set_defaults(run=_run_convert)


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    from steel.labels.arguments import add_convert_arguments

    load_extensions()  # before the options, to which they add
    add_convert_arguments(parser)


def _run_convert(arguments: argparse.Namespace) -> None:
    from steel import storage
    from steel.labels.arguments import label_options_from
    from steel.labels.convert import write_labels
    from steel.labels.formats import FORMATS
    from steel.labels.load import load_labels

    inputs = [arguments.images, arguments.labels]
    if FORMATS[arguments.to].writes_folder:
        storage.check_apart(inputs, [arguments.out])
    else:
        make_way(inputs, [arguments.out])
    labels = load_labels(arguments.images, arguments.labels, label_options_from(arguments))
    with image_bar("convert") as on_image:
        write_labels(labels, arguments.out, arguments.to, on_image)
    for line in labels.left_out:
        print(line)  # noqa: T201
    print(f"{told_url(arguments.out)}: {counted(len(labels.images), 'image')}, classes {', '.join(labels.class_names)}")  # noqa: T201
