"""The command-line option of every program that reads images."""

import argparse


def add_tiff_pages(group: argparse._ActionsContainer) -> None:
    """`--tiff-pages`, for every program that reads a folder of images."""
    group.add_argument(
        "--tiff-pages",
        choices=("refuse", "split"),
        default="refuse",
        help="what a TIFF of several pages is: a mistake, or an image per page, NAME_p1.tif, NAME_p2.tif, ...",
    )
