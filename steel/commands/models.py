"""Subcommands on checkpoints: predict, info, export, ensemble."""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steel.commands.common import image_bar, make_way, require_torch
from steel.commands.predictions import (
    add_predict_arguments,
    job_from,
    make_way_for,
    prediction_bars,
    report_predictions,
)
from steel.errors import InputError, counted, told_url
from steel.inference.int8_report import MAX_LOSS, NUM_IMAGES
from steel.machine import keep_freed_memory
from steel.option_values import fold_numbers, number, positive
from steel.views import parse_tta

if TYPE_CHECKING:
    from steel.checkpoint import Checkpoint


def add_predict(commands: argparse._SubParsersAction) -> None:
    """Add `steel predict`."""
    parser = commands.add_parser(
        "predict",
        help="predict a folder of images",
        description="Find the defects in a folder of images, or in one image, and write them in any formats. "
        "Thresholds and flips are those that the checkpoint was tuned with. Stopped and started again, it goes on. "
        "Exit code 3: some images could not be read and were left out.",
    )
    parser.add_late = _add_predict_arguments
    parser.set_defaults(run=_run_predict)


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    add_predict_arguments(parser)
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")


def _run_predict(arguments: argparse.Namespace) -> int:
    from steel.inference.load import is_onnx, load_predictor
    from steel.inference.predict_folder import describe_predictor, predict_folder

    if not is_onnx(arguments.checkpoint):
        require_torch()
        keep_freed_memory()  # onnxruntime does so by itself
    job = job_from(arguments)
    make_way_for(arguments)
    predictor = load_predictor(
        arguments.checkpoint,
        tta=None if arguments.tta is None else parse_tta(arguments.tta),
        device=arguments.device,
        precision=arguments.precision,
        pixels_per_pass=arguments.pixels_per_pass,
    )
    with prediction_bars(predictor) as on_image:
        begun = time.perf_counter()
        summary = predict_folder(predictor, job, describe_predictor(predictor), on_image)
        seconds = time.perf_counter() - begun
    return report_predictions(job, predictor, summary, seconds)


def add_info(commands: argparse._SubParsersAction) -> None:
    """Add `steel info`."""
    parser = commands.add_parser(
        "info",
        help="say what is in a checkpoint",
        description="Say what is in a checkpoint, from its header alone, or in an exported graph.",
    )
    parser.add_argument("checkpoint", metavar="FILE", help="model.safetensors or model.onnx; a path or URL")
    parser.add_argument("--json", action="store_true", help="everything the header holds, as JSON")
    parser.set_defaults(run=_run_info)


def _run_info(arguments: argparse.Namespace) -> None:
    from steel.inference.load import read_any_header
    from steel.reports.describe import describe_checkpoint

    header = read_any_header(arguments.checkpoint)
    text = json.dumps(header, indent=1) if arguments.json else "\n".join(describe_checkpoint(header))
    print(text)  # noqa: T201


def add_export(commands: argparse._SubParsersAction) -> None:
    """Add `steel export`."""
    parser = commands.add_parser(
        "export",
        help="write a checkpoint as ONNX",
        description="Write a checkpoint as one ONNX file that takes uint8 images of any size and gives uint8 "
        "probabilities; `steel predict` and `steel info` take it, without torch. Class names and thresholds are in its "
        "metadata under `steel`, as JSON.",
    )
    parser.add_argument("checkpoint", metavar="FILE", help="model.safetensors; a path or URL")
    parser.add_argument("--onnx", metavar="OUT", required=True, help="file to write, a path or URL")
    parser.add_argument("--tta", metavar="VIEWS", help="flips averaged in the graph, or none; default: the decision's")
    parser.add_argument(
        "--int8",
        metavar="SHARDS",
        help="convolutions in 8 bits, with ranges from images of the training folds of these shards; scores and speed "
        "before and after, on the tuning folds, are printed and stored",
    )
    parser.add_argument(
        "--int8-folds",
        nargs=2,
        type=fold_numbers,
        metavar=("RANGES", "SCORED"),
        help="other folds, such as 2,3 0; shards that the checkpoint was not trained on need them, and ensembles of a "
        "cross-validation",
    )
    parser.add_argument(
        "--int8-images", type=positive, default=NUM_IMAGES, metavar="N", help="at most so many give ranges"
    )
    parser.add_argument(
        "--int8-max-loss",
        type=number,
        default=MAX_LOSS,
        metavar="DICE",
        help="write nothing if mean or positive Dice falls by more",
    )
    parser.add_argument("--force", action="store_true", help="write it all the same")
    parser.set_defaults(run=_run_export)


def _run_export(arguments: argparse.Namespace) -> None:
    require_torch()
    from steel.checkpoint import load_checkpoint
    from steel.inference.load import is_onnx

    if not is_onnx(arguments.onnx):
        raise InputError(f"--onnx {arguments.onnx}: give a name that ends in .onnx, as graphs are told by it")
    if arguments.int8 is None:
        _check_without_int8(arguments)
    make_way([arguments.checkpoint, arguments.int8], [arguments.onnx])
    checkpoint = load_checkpoint(arguments.checkpoint)
    if arguments.int8 is not None:
        _export_int8(arguments, checkpoint)
        return
    print("making the graph, which takes tens of seconds or more", file=sys.stderr, flush=True)  # noqa: T201
    from steel.inference.onnx_export import export_onnx

    num_sizes = export_onnx(checkpoint, arguments.onnx, None if arguments.tta is None else parse_tta(arguments.tta))
    size = checkpoint.input_size
    by_steel = "as `steel predict` and `steel serve` do"
    resized = "" if size is None else f"; resize images to {size[0]}x{size[1]} first, {by_steel}"
    print(f"{told_url(arguments.onnx)}: checked against the checkpoint at {num_sizes} sizes{resized}")  # noqa: T201


def _check_without_int8(arguments: argparse.Namespace) -> None:
    """Refuse what would say nothing of a graph in float32."""
    for option, is_given in (
        ("--int8-folds", arguments.int8_folds is not None),
        ("--int8-images", arguments.int8_images != NUM_IMAGES),
        ("--int8-max-loss", arguments.int8_max_loss != MAX_LOSS),
        ("--force", arguments.force),
    ):
        if is_given:
            raise InputError(f"{option}: goes with --int8 SHARDS alone; add that, or leave it out")


def _export_int8(arguments: argparse.Namespace, checkpoint: "Checkpoint") -> None:
    from steel.inference.int8_export import Int8Folds, export_int8
    from steel.plain import to_dict
    from steel.reports.describe import describe_int8
    from steel.shards.reader import ShardReader

    with image_bar("int8") as on_image:
        report = export_int8(
            checkpoint,
            arguments.onnx,
            ShardReader(arguments.int8),
            tta=None if arguments.tta is None else parse_tta(arguments.tta),
            folds=None if arguments.int8_folds is None else Int8Folds(*arguments.int8_folds),
            num_images=arguments.int8_images,
            max_loss=None if arguments.force else arguments.int8_max_loss,
            on_image=on_image,
        )
    print("\n".join([told_url(arguments.onnx), *describe_int8(to_dict(report))]))  # noqa: T201


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
    from steel.inference.load import is_onnx

    if is_onnx(arguments.out):
        raise InputError(f"--out {arguments.out}: graphs are told by .onnx; give a name that ends in .safetensors")
    names = list(map(told_url, arguments.checkpoints))
    if len(names) < 2:
        raise InputError(f"{names[0]}: one file alone makes no ensemble; give two or more")
    make_way(arguments.checkpoints, [arguments.out])
    checkpoints = [load_checkpoint(path) for path in arguments.checkpoints]
    ensemble = stack_members(checkpoints, names)
    _check_differ(checkpoints, names)
    save_checkpoint(arguments.out, ensemble)
    decision = "" if ensemble.decision else "; without a decision: find one with `train.evaluate --tune-thresholds`"
    print(f"{told_url(arguments.out)}: {counted(ensemble.members, 'member')}{decision}")  # noqa: T201


def _check_differ(checkpoints: Sequence["Checkpoint"], names: Sequence[str]) -> None:
    """Refuse the same weights twice, members of ensembles among them, which would have two votes for one's forward
    passes each."""
    import torch

    members = [(i, one.member_state(member)) for i, one in enumerate(checkpoints) for member in range(one.members)]
    for (i, one), (j, other) in itertools.combinations(members, 2):
        if one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one):
            what = "the same weights twice" if i == j else f"weights of {names[i]}"
            raise InputError(f"{names[j]}: holds {what}; an ensemble takes each network once")
