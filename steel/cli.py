"""The `steel` command. Each subcommand imports what it needs when it runs, so `--help` is instant and has no torch."""

import argparse
import sys
from collections.abc import Sequence

from steel.errors import run_program


def _add_synth(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "synth",
        help="make a Severstal-shaped data set",
        description="Make a synthetic data set in the layout of Kaggle's Severstal (train_images/, train.csv, "
        "test_images/, sample_submission.csv), with the test images' masks in test_truth.csv.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("out", metavar="OUT", help="folder to make")
    add(
        "--num-train",
        type=int,
        metavar="N",
        help="training images; with --annotations a random part of those annotated",
    )
    add("--num-test", type=int, metavar="M", default=0, help="test images")
    add("--seed", type=int, metavar="S", default=0, help="the same seed and options make the same files")
    add("--annotations", metavar="CSV", help="render training images for these masks instead of drawing masks")
    add("--image-ids", metavar="FILE", help="ids to render, one a line; those without a row in --annotations are clean")
    add(
        "--class-share",
        type=_numbers,
        metavar="A,B,C,D",
        help="share of images that hold each class; departs from the real frequencies (0.07,0.02,0.41,0.06), "
        "so that small sets have enough of the rare classes",
    )
    add("--defect-share", type=float, metavar="X", help="share of images with any defect (real: 0.53)")
    add("--workers", type=int, metavar="N", help="processes; all CPUs when not given")
    add("--height", type=int, metavar="PIXELS", default=256, help="of an image")
    add("--width", type=int, metavar="PIXELS", default=1600, help="of an image")
    parser.set_defaults(run=_run_synth)


def _run_synth(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from steel.data.synthetic import synthesize

    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "run")}
    with tqdm(desc="synth", unit="image", disable=None) as bar:

        def on_image(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = synthesize(**options, on_image=on_image)
    print(f"{arguments.out}: {'made' if made else 'already there with the same options; nothing to do'}")  # noqa: T201


def _numbers(text: str) -> tuple[float, ...]:
    """The value of an option that takes `1,2,3`."""
    return tuple(float(part) for part in text.split(","))


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; each subcommand sets `run`, a function of the parsed arguments."""
    parser = argparse.ArgumentParser(prog="steel", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_synth,):
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `steel` console command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return run_program(lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
