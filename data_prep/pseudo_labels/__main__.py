"""Label images with a checkpoint, for a second round of training:

python -m data_prep.pseudo_labels --checkpoint RUN/model.safetensors --data SHARDS --unlabelled DIR --out SHARDS2 [...]

SHARDS2 holds all of SHARDS in the same folds and the images of DIR in one further fold, with the masks that the
checkpoint's decision finds in them. Pixels of which it is unsure are ignored, images of which it is unsure left out,
and so are near-duplicates of images in SHARDS and, by --groups, what belongs to images that judge. `python -m train
--data SHARDS2` then trains on them, and validates and tests on what people have labelled. Exit code 3: some images
could not be read and were left out. A run that is stopped starts over; nothing is seen of it under the name SHARDS2.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from data_prep.folder import refuse_damaged, refuse_others
from data_prep.further_fold import FurtherFold
from data_prep.plan import file_sizes
from data_prep.pseudo_labels.known_groups import KnownGroups, folds_that_judge
from data_prep.pseudo_labels.labelling import Labelling
from data_prep.whole_folder import appearing_whole, check_free
from steel import storage
from steel.commands.common import Parser, require_torch
from steel.commands.predictions import UNREADABLE, prediction_bars, report_unreadable
from steel.commands.pseudo_labels import add_labelling
from steel.errors import InputError, counted, run_program, told_url
from steel.extensions import load_extensions
from steel.images.listing import ImageRecord, list_images
from steel.inference.base_predictor import BasePredictor
from steel.inference.load import digest_source, is_onnx, load_predictor, read_any_header
from steel.labels.csv_file import read_table
from steel.labels.labels import refuse_same_stems
from steel.machine import keep_freed_memory
from steel.option_values import whole
from steel.plain import to_dict
from steel.shards.format import MANIFEST_NAME, Manifest, sample_key
from steel.shards.reader import ShardReader
from steel.shards.selection import (
    PSEUDO_LABELS,
    SEEN,
    check_same_task,
    data_digests,
    folds_of,
    num_unreadable,
    pseudo_rounds,
)
from steel.shards.split_roles import role_of, seen_folds, trained_on
from steel.views import parse_tta

IMAGES_DIGEST = "images_sha256"
"""In what the manifest says of a round: of the images that were there."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="data_prep.pseudo_labels", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", metavar="FILE", required=True, help="model.safetensors, or model.onnx; a path or URL")
    add_labelling(parser)
    add(
        "--held-out",
        type=whole,
        nargs="+",
        metavar="FOLD",
        help="folds of SHARDS that are to validate and test, for --groups; by default those that the checkpoint was "
        "not trained on",
    )
    add("--out", metavar="SHARDS2", required=True, help="folder to make")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Label images; returns the process's exit code."""
    load_extensions()
    arguments = build_parser().parse_args(argv)
    _check_places(arguments)
    fold = FurtherFold.of(ShardReader(arguments.data))
    made_with = _describe(arguments, fold.manifest)
    if _is_finished(arguments.out, made_with):
        _say([f"{told_url(arguments.out)}: already finished, nothing to do", *_compare_images(arguments)])
        return _report_left_out(arguments.out)
    check_free(arguments.out)
    if not is_onnx(arguments.checkpoint):
        require_torch()
        keep_freed_memory()
    predictor = load_predictor(
        arguments.checkpoint,
        device=arguments.device,
        tta=None if arguments.tta is None else parse_tta(arguments.tta),
        pixels_per_pass=arguments.pixels_per_pass,
        precision=arguments.precision,
    )
    if predictor.file_digest != made_with["checkpoint_sha256"]:
        raise InputError(f"--checkpoint {arguments.checkpoint}: has changed meanwhile; give the same command again")
    _check_task(arguments.checkpoint, predictor, fold.manifest)
    records = list_images(arguments.unlabelled, tiff_pages=arguments.tiff_pages)
    refuse_same_stems(records, sample_key)
    header = read_any_header(arguments.checkpoint)
    seen = [to_dict(one) for one in seen_folds(header["folds"], header["provenance"])]
    images_digest = _digest_images(arguments.unlabelled, records)
    round_of = {"fold": fold.number, IMAGES_DIGEST: images_digest, SEEN: seen, **made_with}
    together = None
    if arguments.groups is not None:
        trained = _trained_folds(header, fold.reader)
        held = folds_that_judge(arguments.held_out, trained, fold)
        together = KnownGroups.read(arguments.groups, fold, records, held)
    with appearing_whole(arguments.out) as unfinished:
        labelling = Labelling(fold, predictor, arguments.unsure, arguments.threads, together)

        def provenance() -> dict[str, Any]:
            options = {PSEUDO_LABELS: [*pseudo_rounds(fold.manifest), {**round_of, **labelling.recorded()}]}
            return options if together is None else {**options, "groups": "file"}

        known, groups, new = labelling.screen(records)
        with prediction_bars(predictor) as on_image, closing(labelling.label(new, on_image)) as images:
            summary = fold.write(unfinished.path, known, images, provenance, groups)
    is_foreign = data_digests(fold.manifest).isdisjoint(trained_on(header["provenance"]))
    _say(
        [
            *labelling.lines(summary),
            *([_OTHER_SHARDS] if is_foreign else []),
            *(["an earlier run was stopped: started over"] if unfinished.is_restart else []),
        ]
    )
    return report_unreadable(labelling.unreadable)


_OTHER_SHARDS = (
    "warning: the checkpoint was not trained on these shards: what it labels may be of another kind than it knows, and "
    "nobody knows which of the images it has seen; look at some of its masks first"
)


def _check_places(arguments: argparse.Namespace) -> None:
    if arguments.held_out is not None and arguments.groups is None:
        raise InputError("--held-out: is for --groups, which is not given; no other images are left out by folds")
    for option in ("data", "out"):
        if storage.is_remote(getattr(arguments, option)):
            raise InputError(
                f"--{option} {getattr(arguments, option)}: give a folder of this machine; shards are copied to and "
                "from a store by its own tools"
            )
    storage.check_apart([arguments.checkpoint, arguments.data, arguments.unlabelled], [arguments.out])


def _describe(arguments: argparse.Namespace, manifest: Manifest) -> dict[str, Any]:
    """What the pseudo-labels depend on beside the images, as plain JSON values."""
    return {
        "checkpoint_sha256": digest_source(arguments.checkpoint),
        "data_digest": manifest.digest,
        "unsure": [arguments.unsure.low, arguments.unsure.high],
        "tta": None if arguments.tta is None else list(parse_tta(arguments.tta)),
        "precision": arguments.precision,
        "tiff_pages": arguments.tiff_pages,
        "groups": None if arguments.groups is None else _digest_groups(arguments.groups),
        "held_out_folds": arguments.held_out,
    }


def _digest_groups(url: str) -> str:
    """What tells a file with groups from all others.

    Raises:
        InputError: there is none, or it is of another kind.
    """
    read_table(url, ("image", "group"))
    return storage.digest_file(url)


def _trained_folds(header: Mapping[str, Any], reader: ShardReader) -> list[int]:
    """The folds of the set that a checkpoint was trained on, as far as it knows them."""
    digests, used, provenance = data_digests(reader.manifest), header["folds"], header["provenance"]
    return [fold for fold in folds_of(reader) if role_of([fold], digests, used, provenance) == "train"]


def _is_finished(out: str, made_with: Mapping[str, Any]) -> bool:
    """Whether OUT holds the result of the same checkpoint, shards and options.

    Raises:
        InputError: it holds other shards, or files of it are missing or damaged.
    """
    if not storage.exists(storage.join(out, MANIFEST_NAME)):
        return False
    manifest = Manifest.load(out)
    rounds = pseudo_rounds(manifest)
    refuse_others(out, rounds[-1] if rounds else {}, made_with)
    refuse_damaged(out, manifest)
    return True


def _report_left_out(out: str) -> int:
    """Warn of images that a finished folder was made without; returns the exit code."""
    number = num_unreadable(Manifest.load(out))
    if not number:
        return 0
    print(f"warning: {told_url(out)}: was made without {counted(number, 'unreadable image')}", file=sys.stderr)  # noqa: T201
    return UNREADABLE


def _compare_images(arguments: argparse.Namespace) -> list[str]:
    """What there is to say of the images that a finished folder was made of. That there are others now is no mistake:
    a line goes on to make them, and a second round goes on with those that it began with. Nor is it that there are none
    any more."""
    url = arguments.unlabelled
    if not storage.exists(url):
        return []
    try:
        records = list_images(url, tiff_pages=arguments.tiff_pages)
    except InputError as error:
        return [str(error)]
    said = pseudo_rounds(Manifest.load(arguments.out))[-1]
    if said.get(IMAGES_DIGEST) in (None, _digest_images(url, records)):
        return []
    return [f"{told_url(url)} holds other images now; for these, give another --out"]


def _digest_images(folder: str, records: Sequence[ImageRecord]) -> str:
    """What tells a folder from what it was: names and sizes of the images in it."""
    return hashlib.sha256(json.dumps(sorted(file_sizes(folder, records).items())).encode()).hexdigest()


def _check_task(checkpoint: str, predictor: BasePredictor, manifest: Manifest) -> None:
    name = f"--checkpoint {checkpoint}"
    check_same_task(name, predictor.class_names, predictor.in_channels, predictor.depth, manifest)


def _say(lines: Sequence[str]) -> None:
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    sys.exit(run_program(main))
