"""What `steel predict` and `train.predict` share: options, checks and the last lines."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steel.commands.common import add_inference, image_bar, tile_bar
from steel.errors import counted, list_some, told_url
from steel.extensions import load_extensions
from steel.option_values import positive

if TYPE_CHECKING:
    from steel.inference.base_predictor import BasePredictor
    from steel.inference.folder_job import FolderJob
    from steel.inference.predict_folder import FolderSummary

UNREADABLE = 3
"""The exit code where some images could not be read and all others were predicted."""


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """`FILE IMAGES --out DIR --format NAMES`, and how the model runs, but not where."""
    from steel.images.arguments import add_tiff_pages
    from steel.inference.writers import WRITERS
    from steel.labels.submission import SUBMISSION_FORMATS

    load_extensions()  # before the options, to which they add
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="FILE",
        help="model.safetensors of a run, or model.onnx of `steel export`; a path or URL",
    )
    add("images", metavar="IMAGES", help="folder of images, or one image; a path or URL")
    add_tiff_pages(parser)
    add("--out", metavar="DIR", default="predictions", help="folder to write to, a path or URL")
    known = "; ".join(f"{name}: {writer.meaning} ({writer.place})" for name, writer in WRITERS.items())
    add(
        "--format",
        type=lambda text: tuple(text.split(",")),
        default="kaggle",
        metavar="A,B,...",
        help=f"what to write there. {known}",
    )
    add(
        "--columns",
        choices=tuple(SUBMISSION_FORMATS),
        default="ImageId_ClassId",
        help="first columns of the submission",
    )
    add("--template", metavar="CSV", help="sample submission whose columns, rows and order to take instead")
    add("--tta", metavar="VIEWS", help="flips averaged, such as hflip,vflip,hvflip, or none; by default the decision's")
    add_inference(parser)
    add("--threads", type=positive, metavar="N", default=4, help="that decode and encode while the model runs")


def job_from(arguments: argparse.Namespace) -> "FolderJob":
    """What the options of `add_predict_arguments` ask for."""
    from steel.inference.folder_job import FolderJob

    return FolderJob(
        arguments.images,
        arguments.out,
        arguments.format,
        arguments.columns,
        arguments.template,
        arguments.threads,
        arguments.tiff_pages,
    )


def make_way_for(arguments: argparse.Namespace) -> None:
    """See, before the model is loaded, that the job can be done as far as that can be told, and replaces no input."""
    from steel import storage
    from steel.inference.folder_job import check_job, replaced_files
    from steel.inference.writers import WRITERS

    places = {WRITERS[name].place for name in arguments.format if name in WRITERS}
    outputs = [storage.join(arguments.out, place) for place in places]
    storage.check_apart([arguments.checkpoint, arguments.images, arguments.template], [*outputs, arguments.out])
    job = job_from(arguments)
    check_job(job)
    for file in replaced_files(job):
        print(f"note: {told_url(file)} is there already; it is replaced when all images are done", file=sys.stderr)  # noqa: T201


@contextmanager
def prediction_bars(predictor: "BasePredictor") -> Iterator[Callable[[int, int], None]]:
    """A progress bar of images, as `image_bar`, and below it one of the tiles of a large image under way."""
    with image_bar("predict") as on_image, tile_bar() as predictor.on_tile:
        yield on_image


def report_predictions(job: "FolderJob", predictor: "BasePredictor", summary: "FolderSummary", seconds: float) -> int:
    """Say what was predicted, by this attempt in so many seconds; returns the exit code."""
    from steel.images.exif import TURNED_PREDICTED, told_turned
    from steel.inference.writers import WRITERS

    classes = ", ".join(
        f"{number} {name}" for name, number in zip(predictor.class_names, summary.per_class, strict=True)
    )
    earlier, rate = summary.images - summary.new, summary.new / seconds
    images = (
        counted(summary.images, "image")
        + (f", {earlier} of them by an earlier attempt" if earlier else "")
        + (f", {summary.not_in_sample} of them not in the sample" if summary.not_in_sample else "")
    )
    print(  # noqa: T201
        f"{told_url(job.out)}: {', '.join(WRITERS[name].place for name in job.formats)}; {images}; "
        f"{summary.defective} defective ({classes}); {rate:.{1 if rate >= 1 else 3}f} images/s on {predictor.device}, "
        f"{counted(1 + len(predictor.tta), 'view')} per image"
        + ("" if predictor.is_tuned else "; never tuned, so all thresholds are one half")
    )
    if summary.turned:
        said = f"warning: {told_turned(summary.turned)}: {list_some(summary.turned, 3)}; {TURNED_PREDICTED}"
        print(said, file=sys.stderr)  # noqa: T201
    return report_unreadable(summary.unreadable)


def report_unreadable(unreadable: Mapping[str, str]) -> int:
    """Warn of images that could not be read, by their reasons; returns the exit code."""
    if not unreadable:
        return 0
    named = list_some([f"{image_id} ({reason})" for image_id, reason in sorted(unreadable.items())])
    print(f"warning: left out {counted(len(unreadable), 'unreadable image')}: {named}", file=sys.stderr)  # noqa: T201
    return UNREADABLE
