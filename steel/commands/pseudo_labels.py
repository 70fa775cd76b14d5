"""Options of the programs that label images with a checkpoint, to train on them: `add_labelling`."""

import argparse

from steel.commands.common import add_inference
from steel.errors import InputError
from steel.images.arguments import add_tiff_pages
from steel.inference.pseudo_label import UnsureBand
from steel.option_values import number, positive


def add_labelling(parser: argparse.ArgumentParser) -> None:
    """Which images a checkpoint labels, and how."""
    add = parser.add_argument
    add("--data", metavar="SHARDS", required=True, help="folder of the shards that the checkpoint's task is of")
    add("--unlabelled", metavar="DIR", required=True, help="folder or URL of images without labels")
    add_tiff_pages(parser)
    add(
        "--groups",
        metavar="CSV",
        help="images that belong together, of SHARDS and of DIR, with the header image,group: an image of DIR that "
        "belongs to one that validates or tests is left out",
    )
    add(
        "--unsure",
        type=parse_unsure,
        metavar="LOW,HIGH",
        default="0.2,0.8",
        help="the probabilities between which an answer is unsure, where the threshold is one half: elsewhere the band "
        "moves with the threshold; or one number, its width, as 0.6",
    )
    add("--tta", metavar="VIEWS", help="flips averaged, such as hflip,vflip,hvflip, or none; by default the decision's")
    add_inference(parser)
    add("--threads", type=positive, metavar="N", default=4, help="that decode and compare images")


def parse_unsure(text: str) -> UnsureBand:
    """`LOW,HIGH`, or a width around one half.

    Raises:
        argparse.ArgumentTypeError: neither.
    """
    values = [number(part) for part in text.split(",")]
    if len(values) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is neither LOW,HIGH nor a width")
    low, high = values if len(values) == 2 else (0.5 - values[0] / 2, 0.5 + values[0] / 2)
    try:
        return UnsureBand(low, high)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
