"""Subcommands on checkpoints: predict, info, export, ensemble."""

import argparse
import json
import time

from steel.commands.common import Help, add_inference, image_bar, make_way, positive, require_torch


def add_predict(commands: argparse._SubParsersAction) -> None:
    """Add `steel predict`."""
    parser = commands.add_parser(
        "predict",
        help="predict a folder of images",
        description="Find the defects in a folder of images, or in one image, and write them as run-length masks. "
        "Thresholds and flips are those that the checkpoint was tuned with.",
        formatter_class=Help,
    )
    add = parser.add_argument
    add("checkpoint", metavar="FILE", help="model.safetensors of a run or an ensemble; a path or URL")
    add("images", metavar="IMAGES", help="folder of images, or one image; a path or URL")
    add("--out", metavar="CSV", default="submission.csv", help="submission to write, a path or URL")
    add("--format", choices=("ImageId_ClassId", "ImageId,ClassId"), default="ImageId_ClassId", help="its first columns")
    add("--template", metavar="CSV", help="sample submission whose columns, rows and order to take instead")
    add("--overlays", metavar="DIR", help="also draw the masks into the images, here")
    add("--classes-out", metavar="CSV", help="also write the most likely class of each image, and every probability")
    add("--tta", metavar="VIEWS", help="flips averaged, such as hflip,vflip,hvflip, or none; by default the decision's")
    add_inference(parser)
    add("--threads", type=positive, metavar="N", default=4, help="that decode images while the model runs")
    parser.set_defaults(run=_run_predict)


def _run_predict(arguments: argparse.Namespace) -> None:
    require_torch()
    from steel import storage
    from steel.inference.prediction import predict_folder
    from steel.inference.predictor import Predictor
    from steel.model.tta import parse_tta

    make_way([arguments.checkpoint, arguments.images, arguments.template], [arguments.out, arguments.classes_out])
    if arguments.overlays is not None:
        storage.make_folder(arguments.overlays)
    predictor = Predictor.from_checkpoint(
        arguments.checkpoint,
        tta=None if arguments.tta is None else parse_tta(arguments.tta),
        device=arguments.device,
        precision=arguments.precision,
        pixels_per_pass=arguments.pixels_per_pass,
    )
    with image_bar("predict") as on_image:
        begun = time.perf_counter()
        summary = predict_folder(
            predictor,
            arguments.images,
            arguments.out,
            format=arguments.format,
            template=arguments.template,
            overlays=arguments.overlays,
            classes_out=arguments.classes_out,
            threads=arguments.threads,
            on_image=on_image,
        )
        rate = summary.images / (time.perf_counter() - begun)
    left_out = f" ({len(summary.unknown)} more are not in the sample)" if summary.unknown else ""
    print(  # noqa: T201
        f"{arguments.out}: {summary.images} images{left_out}, {summary.masks} masks in {summary.rows} rows; "
        f"{rate:.1f} images/s on {predictor.device}, {1 + len(predictor.tta)} views per image"
        + ("" if predictor.is_tuned else "; never tuned, so all thresholds are one half")
    )


def add_info(commands: argparse._SubParsersAction) -> None:
    """Add `steel info`."""
    parser = commands.add_parser(
        "info", help="say what is in a checkpoint", description="Say what is in a checkpoint, from its header alone."
    )
    parser.add_argument("checkpoint", metavar="FILE", help="model.safetensors; a path or URL")
    parser.add_argument("--json", action="store_true", help="everything the header holds, as JSON")
    parser.set_defaults(run=_run_info)


def _run_info(arguments: argparse.Namespace) -> None:
    from steel.checkpoint import read_header
    from steel.reports.describe import describe_checkpoint

    header = read_header(arguments.checkpoint)
    text = json.dumps(header, indent=1) if arguments.json else "\n".join(describe_checkpoint(header))
    print(text)  # noqa: T201


def add_export(commands: argparse._SubParsersAction) -> None:
    """Add `steel export`."""
    parser = commands.add_parser(
        "export",
        help="write a checkpoint as ONNX",
        description="Write a checkpoint as one ONNX file that takes uint8 images of any size and gives uint8 "
        "probabilities; class names and thresholds are in its metadata under `steel`, as JSON.",
    )
    parser.add_argument("checkpoint", metavar="FILE", help="model.safetensors; a path or URL")
    parser.add_argument("--onnx", metavar="OUT", required=True, help="file to write, a path or URL")
    parser.add_argument("--tta", metavar="VIEWS", help="flips averaged in the graph, or none; default: the decision's")
    parser.set_defaults(run=_run_export)


def _run_export(arguments: argparse.Namespace) -> None:
    require_torch()
    from steel.checkpoint import load_checkpoint
    from steel.inference.onnx_export import export_onnx
    from steel.model.tta import parse_tta

    make_way([arguments.checkpoint], [arguments.onnx])
    checkpoint = load_checkpoint(arguments.checkpoint)
    num_sizes = export_onnx(checkpoint, arguments.onnx, None if arguments.tta is None else parse_tta(arguments.tta))
    size = checkpoint.input_size
    resized = "" if size is None else f"; resize images to {size[0]}x{size[1]} first, as in training"
    print(f"{arguments.onnx}: checked against the checkpoint at {num_sizes} sizes{resized}")  # noqa: T201


def add_ensemble(commands: argparse._SubParsersAction) -> None:
    """Add `steel ensemble`."""
    parser = commands.add_parser(
        "ensemble",
        help="pack checkpoints into one",
        description="Pack checkpoints of one network into one file whose predictions average theirs.",
    )
    parser.add_argument("checkpoints", metavar="FILE", nargs="+", help="model.safetensors of runs or of ensembles")
    parser.add_argument("--out", metavar="FILE", required=True, help="checkpoint to write, a path or URL")
    parser.set_defaults(run=_run_ensemble)


def _run_ensemble(arguments: argparse.Namespace) -> None:
    require_torch()
    from steel.checkpoint import load_checkpoint, save_checkpoint, stack_members

    make_way(arguments.checkpoints, [arguments.out])
    ensemble = stack_members([load_checkpoint(path) for path in arguments.checkpoints], arguments.checkpoints)
    save_checkpoint(arguments.out, ensemble)
    decision = "" if ensemble.decision else "; without a decision: find one with `train.evaluate --tune-thresholds`"
    print(f"{arguments.out}: {ensemble.members} members{decision}")  # noqa: T201
