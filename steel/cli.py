"""The `steel` command. Each subcommand imports what it needs when it runs, so `--help` is instant and has no torch."""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from steel.errors import InputError, run_program
from steel.extensions import load_extensions


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except that there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class _LateParser(argparse.ArgumentParser):
    """Can get its arguments when they are parsed, so that what they need is imported for its command alone."""

    add_late: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args=None, namespace=None):
        """As the base class."""
        if self.add_late is not None:
            add, self.add_late = self.add_late, None
            add(self)
        return super().parse_known_args(args, namespace)


def _add_synth(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "synth",
        help="make a Severstal-shaped data set",
        description="Make a synthetic data set in the layout of Kaggle's Severstal (train_images/, train.csv, "
        "test_images/, sample_submission.csv), with the test images' masks in test_truth.csv.",
        formatter_class=_Help,
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
    from steel.synthetic.dataset import synthesize

    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "run")}
    with _image_bar("synth") as on_image:
        made = synthesize(**options, on_image=on_image)
    print(f"{arguments.out}: {'made' if made else 'already there with the same options; nothing to do'}")  # noqa: T201


def _add_explore(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "explore",
        help="look at a shard folder: one page with pictures, and its figures",
        description="Write index.html (self-contained) and figures.json about a shard folder: classes, areas, "
        "places, gray levels, examples, folds, duplicates.",
        formatter_class=_Help,
    )
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL that data_prep wrote")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--max-images", type=int, metavar="N", default=2000, help="random images whose pixels are read")
    parser.add_argument("--seed", type=int, metavar="S", default=0, help="of that choice")
    parser.set_defaults(run=_run_explore)


def _run_explore(arguments: argparse.Namespace) -> None:
    from steel.reports.explore import explore

    with _image_bar("explore") as on_image:
        explore(
            arguments.shards, arguments.out, max_images=arguments.max_images, seed=arguments.seed, on_image=on_image
        )
    print(f"wrote {arguments.out}/index.html and {arguments.out}/figures.json")  # noqa: T201


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="write labels of any format in another",
        description="Read labels of any known format and write them in another, every pixel as it was: for a labelling "
        "tool, another program, or to look at them.",
        formatter_class=_Help,
    )
    parser.add_late = _add_convert_arguments
    parser.set_defaults(run=_run_convert)


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    from steel.labels.arguments import add_convert_arguments

    load_extensions()  # before the options, to which they add
    add_convert_arguments(parser)


def _run_convert(arguments: argparse.Namespace) -> None:
    from steel import storage
    from steel.labels.arguments import labels_from
    from steel.labels.convert import write_labels

    storage.check_apart([arguments.images, arguments.labels], [arguments.out])
    labels = labels_from(arguments)
    with _image_bar("convert") as on_image:
        write_labels(labels, arguments.out, arguments.to, on_image)
    for line in labels.left_out:
        print(line)  # noqa: T201
    print(f"{arguments.out}: {len(labels.images)} images, classes {', '.join(labels.class_names)}")  # noqa: T201


@contextmanager
def _image_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal, as a function to call with (images done, images in all)."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="image", disable=None) as bar:

        def on_image(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_image


def _numbers(text: str) -> tuple[float, ...]:
    """The value of an option that takes `1,2,3`."""
    return tuple(float(part) for part in text.split(","))


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "predict",
        help="predict a folder of images",
        description="Find the defects in a folder of images, or in one image, and write them as run-length masks. "
        "Thresholds and flips are those that the checkpoint was tuned with.",
        formatter_class=_Help,
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
    _add_inference(parser)
    add("--threads", type=_positive, metavar="N", default=4, help="that decode images while the model runs")
    parser.set_defaults(run=_run_predict)


def _run_predict(arguments: argparse.Namespace) -> None:
    _require_torch()
    from steel import storage
    from steel.inference.prediction import predict_folder
    from steel.inference.predictor import Predictor
    from steel.model.tta import parse_tta

    _make_way([arguments.checkpoint, arguments.images, arguments.template], [arguments.out, arguments.classes_out])
    if arguments.overlays is not None:
        storage.make_folder(arguments.overlays)
    predictor = Predictor.from_checkpoint(
        arguments.checkpoint,
        tta=None if arguments.tta is None else parse_tta(arguments.tta),
        device=arguments.device,
        precision=arguments.precision,
        pixels_per_pass=arguments.pixels_per_pass,
    )
    with _image_bar("predict") as on_image:
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


def _add_info(commands: argparse._SubParsersAction) -> None:
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


def _add_export(commands: argparse._SubParsersAction) -> None:
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
    _require_torch()
    from steel.checkpoint import load_checkpoint
    from steel.inference.onnx_export import export_onnx
    from steel.model.tta import parse_tta

    _make_way([arguments.checkpoint], [arguments.onnx])
    checkpoint = load_checkpoint(arguments.checkpoint)
    num_sizes = export_onnx(checkpoint, arguments.onnx, None if arguments.tta is None else parse_tta(arguments.tta))
    size = checkpoint.input_size
    resized = "" if size is None else f"; resize images to {size[0]}x{size[1]} first, as in training"
    print(f"{arguments.onnx}: checked against the checkpoint at {num_sizes} sizes{resized}")  # noqa: T201


def _add_ensemble(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "ensemble",
        help="pack checkpoints into one",
        description="Pack checkpoints of one network into one file whose predictions average theirs.",
    )
    parser.add_argument("checkpoints", metavar="FILE", nargs="+", help="model.safetensors of runs or of ensembles")
    parser.add_argument("--out", metavar="FILE", required=True, help="checkpoint to write, a path or URL")
    parser.set_defaults(run=_run_ensemble)


def _run_ensemble(arguments: argparse.Namespace) -> None:
    _require_torch()
    from steel.checkpoint import load_checkpoint, save_checkpoint, stack_members

    _make_way(arguments.checkpoints, [arguments.out])
    ensemble = stack_members([load_checkpoint(path) for path in arguments.checkpoints], arguments.checkpoints)
    save_checkpoint(arguments.out, ensemble)
    decision = "" if ensemble.decision else "; without a decision: find one with `train.evaluate --tune-thresholds`"
    print(f"{arguments.out}: {ensemble.members} members{decision}")  # noqa: T201


def _add_inference(parser: argparse.ArgumentParser) -> None:
    """Options of every command that runs a model."""
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--precision", choices=("auto", "no", "bf16", "fp16"), default="auto", help="auto: bf16 where that is fast"
    )
    parser.add_argument(
        "--pixels-per-pass",
        type=_positive,
        metavar="N",
        help="pixels in a forward pass, in images of one padded size, at least one; by default what suits the device",
    )


def _positive(text: str) -> int:
    """The value of an option that takes a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise InputError("this command needs torch: pip install 'steel-defects[train]'")


def _make_way(inputs: Sequence[str | None], outputs: Sequence[str | None]) -> None:
    """See, before any work is done, that every output can be written and replaces no input; None is no file."""
    from steel import storage

    storage.check_apart(inputs, outputs)
    for path in outputs:
        if path is None or storage.is_remote(path):
            continue
        if storage.local_path(path).is_dir():
            raise InputError(f"{path}: a folder; give the name of the file to write")
        storage.make_folder(storage.local_path(path).parent)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; each subcommand sets `run`, a function of the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="steel", description="Steel-surface defects, from raw line-camera images to one checkpoint file."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_LateParser)
    for add in (_add_synth, _add_convert, _add_explore, _add_predict, _add_info, _add_export, _add_ensemble):
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `steel` console command; returns the exit code."""

    def run() -> None:
        arguments = build_parser().parse_args(argv)
        load_extensions()
        arguments.run(arguments)

    return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
