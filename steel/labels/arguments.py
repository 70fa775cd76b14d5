"""Command-line options of every program that reads labels."""

import argparse
import dataclasses

from steel.images.arguments import add_tiff_pages
from steel.labels.classes import parse_value
from steel.labels.convert import writable
from steel.labels.formats import FORMATS
from steel.labels.options import AUTO, LabelOptions
from steel.option_values import number


def add_convert_arguments(group: argparse._ActionsContainer) -> None:
    """`LABELS --images DIR --to NAME --out PATH`, and how the labels are read."""
    group.add_argument("labels", metavar="LABELS", help=_LABELS_HELP)
    _add_reading_arguments(group)
    group.add_argument("--to", required=True, choices=writable(), help="format to write")
    group.add_argument("--out", required=True, metavar="PATH", help="file or folder to write")


def add_label_arguments(group: argparse._ActionsContainer, *, required: bool = True) -> None:
    """`--labels PATH --images DIR`, and how the labels are read."""
    group.add_argument("--labels", required=required, metavar="PATH", help=_LABELS_HELP)
    _add_reading_arguments(group, required=required)


_LABELS_HELP = "file or folder of the labels, of any format that is known; a path or URL"


def _add_reading_arguments(group: argparse._ActionsContainer, *, required: bool = True) -> None:
    group.add_argument(
        "--images", required=required, metavar="DIR", help="folder of images, searched with its subfolders"
    )
    add_tiff_pages(group)
    known = "; ".join(f"{name}: {form.meaning}" for name, form in FORMATS.items())
    group.add_argument(
        "--labels-format", choices=(AUTO, *FORMATS), default=AUTO, help=f"{known}; auto finds out which it is"
    )
    add_class_arguments(group)
    group.add_argument(
        "--mask-threshold",
        type=number,
        metavar="T",
        help="mask pixels of at least this value are inside, whatever it is: for masks of one class with soft edges or "
        "probabilities, in one folder or in a subfolder per class",
    )
    group.add_argument(
        "--resize-masks", action="store_true", help="bring labels made at another size of their image to its own"
    )
    group.add_argument("--any-case", action="store_true", help="labels may name their image in other capitals")
    group.add_argument(
        "--stray-labels",
        choices=("error", "skip"),
        default="error",
        help="what labels of other images or classes and shapes without any pixel are: mistakes, or left out",
    )


def _mask_value(text: str) -> int:
    try:
        return parse_value(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor a colour #rrggbb") from error


def add_class_arguments(group: argparse._ActionsContainer) -> None:
    """What masks mean, for every program that reads them."""
    group.add_argument(
        "--class-names",
        type=lambda text: tuple(text.split(",")),
        metavar="A,B,...",
        help="names of the classes 1, 2, ..., or 10=A,20=B for other numbers, '#ff0000=A,#00ff00=B' for colours; "
        "else found in the labels",
    )
    group.add_argument(
        "--ignore-value",
        type=_mask_value,
        metavar="V",
        help="value of mask pixels whose truth is not known (a number, or a colour #rrggbb)",
    )
    group.add_argument(
        "--missing-mask",
        choices=("error", "clean"),
        default="error",
        help="what an image without labels is: a mistake, or free of defects",
    )


def label_options_from(arguments: argparse.Namespace) -> LabelOptions:
    """What the options of `add_label_arguments` and `add_convert_arguments` say.

    Raises:
        InputError: values that are no options.
    """
    names = [field.name for field in dataclasses.fields(LabelOptions) if field.name != "format"]
    return LabelOptions(arguments.labels_format, **{name: getattr(arguments, name) for name in names})
