"""How fast images of many sizes are predicted and validated: `python -m bench.predictions`
writes `bench/predictions.md`.

Beside the predictor stands the usual way: batches of eight images of one padded size, filled up with black, one after
another, each on all threads. From files to the CSV it is the plain loop: read, predict, threshold, encode and write an
image, then the next. All run the same network on the same images, each side in a process of its own: what one leaves in
the allocator and in the kernels' caches is not the other's.
"""

import copy
import csv
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from tqdm import tqdm

from bench.made_by import begin, facts_of_run
from bench.speed.report import write_report
from bench.speed.row import Row, Side
from bench.speed.run import Workers, measure_row, num_measurements, repeats_of
from bench.speed.timing import Measure
from bench.speed.worker import ROOT, Worker
from steel.commands.common import Parser
from steel.option_values import positive

NUM_IMAGES, NUM_SIZES = 300, 150
SIZES = {
    "even": ("heights 200 to 400, widths 150 to 350, evenly", (200, 400), (150, 350)),
    "wide": ("heights 100 to 900, widths 80 to 780, evenly on a logarithmic scale", (100, 900), (80, 780)),
}
NUM_STRIPS = 32
THREADS = 2
EIGHT = 8
SHAPES = ((128, 128), (64, 416), (256, 256), (320, 256), (256, 1600))
"""Padded: 64x400 and 300x250 are the second and the fourth."""
TITLE = "Answering images of many sizes"
NOTES = (
    "See [README.md](README.md) for how. Medians over the repeats, after one that does not count. A ratio is the "
    "median of the ratios within each repeat, as the sides take turns. In brackets the smallest and the largest.",
)


def draw_sizes(name: str) -> list[tuple[int, int]]:
    """Height and width of each of 300 images of 150 sizes, in random order."""
    _, heights, widths = SIZES[name]
    rng = np.random.default_rng(0)
    draw = rng.uniform if name == "even" else lambda a, b, n: np.exp(rng.uniform(np.log(a), np.log(b), n))
    sizes = np.stack([draw(*heights, NUM_SIZES), draw(*widths, NUM_SIZES)], axis=1).round().astype(int)
    return [(int(h), int(w)) for h, w in rng.permutation(np.repeat(sizes, NUM_IMAGES // NUM_SIZES, axis=0))]


def make_images(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Synthetic strips of those sizes, and their masks in `train.csv`."""
    from steel.labels.rle import encode_rle
    from steel.synthetic.scene import draw_masks, render

    (folder / "images").mkdir(parents=True)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "ClassId", "EncodedPixels"])
        for number, (height, width) in enumerate(tqdm(sizes, desc=folder.name, unit="image")):
            rng = np.random.default_rng(number)
            masks, extent = draw_masks(rng, frozenset({1 + number // 2 % 4} if number % 2 else ()), height, width)
            cv2.imwrite(str(folder / "images" / f"{number:04d}.jpg"), render(rng, masks, extent, height, width))
            writer.writerows([f"{number:04d}.jpg", k, encode_rle(mask)] for k, mask in masks.items())


def make_dataset(root: Path, name: str) -> None:
    """Images, shards in one fold; the folder appears once it is complete."""
    if root.exists():
        return
    from data_prep.__main__ import main as data_prep

    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make_images(unfinished, draw_sizes(name))
    options = ["--images", unfinished / "images", "--labels", unfinished / "train.csv"]
    data_prep([str(o) for o in (*options, "--out", unfinished / "shards", "--folds", 1, "--no-group-duplicates")])
    unfinished.rename(root)


def make_strips(root: Path) -> None:
    """Images of Severstal's size; the folder appears once it is complete."""
    if root.exists():
        return
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make_images(unfinished, [(256, 1600)] * NUM_STRIPS)
    (unfinished / "images").rename(root)
    shutil.rmtree(unfinished)


@contextmanager
def batches_of_eight() -> Iterator[None]:
    """The usual way, with the project's own loader and scores."""
    shapes = [
        patch(f"{module}.images_per_pass", autospec=True, return_value=EIGHT)
        for module in ("steel.inference.batching", "steel.loading.eval_loader")
    ]
    with shapes[0], shapes[1], patch("steel.model.passes._LARGE_PASS", 0):
        yield


@cache
def _network(encoder: str) -> Any:
    """An untrained network that finds little, as a trained one does on steel."""
    import torch

    from steel.config import NetworkConfig
    from steel.model.network import UnifiedModel
    from train.presets import DEMO

    torch.set_num_threads(THREADS)  # as a user would have; the worker's environment says one
    torch.manual_seed(0)
    widths = DEMO.model.decoder_channels if encoder == DEMO.model.encoder else None
    model = UnifiedModel(NetworkConfig("Unet", encoder, 4, 1, widths)).eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.segmentation_head.get_parameter("0.bias").fill_(-4.0)
    return model


@cache
def _predictor(encoder: str, folded: bool = True) -> Any:
    """A predictor of `_network`; the usual way has its BatchNorms as they are."""
    from steel.inference.predictor import Predictor

    how = nullcontext() if folded else patch("steel.inference.predictor.fold_batch_norms", copy.deepcopy)
    with how:
        return Predictor([_network(encoder)], mean=(0.4,), std=(0.2,), device="cpu", precision="no")


@contextmanager
def _way(usual: bool, pixels: int) -> Iterator[None]:
    """With the usual way, an image waits for 32 others, of so many pixels on average."""
    if not usual:
        yield
        return
    with batches_of_eight(), patch("steel.inference.batching._PASSES_AHEAD", 32 * pixels / (1 << 16)):
        yield


def predict(folder: str, encoder: str, usual: bool) -> Measure:
    """A submission for a folder of images, as `steel predict` writes it."""
    from steel.inference.folder_job import FolderJob
    from steel.inference.predict_folder import predict_folder

    predictor = _predictor(encoder, folded=not usual)
    sizes = draw_sizes(Path(folder).name)
    with tempfile.TemporaryDirectory() as out, _way(usual, sum(h * w for h, w in sizes) // len(sizes)):
        start = time.perf_counter()
        summary = predict_folder(predictor, FolderJob(f"{folder}/images", out), {})
        return Measure(summary.images, time.perf_counter() - start)


def files(folder: str, encoder: str, plain: str | None = None) -> Measure:
    """From image files to a submission: as `steel predict` does it, or by the plain loop, `nchw` or `channels_last`."""
    from steel.inference.folder_job import FolderJob
    from steel.inference.predict_folder import predict_folder

    predictor = _predictor(encoder)
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        if plain:
            count = _plain_loop(predictor, _plain_model(encoder, plain), Path(folder), Path(out, "submission.csv"))
            return Measure(count, time.perf_counter() - start)
        summary = predict_folder(predictor, FolderJob(folder, f"{out}/predicted"), {})
        return Measure(summary.images, time.perf_counter() - start)


@cache
def _plain_model(encoder: str, layout: str) -> Any:
    """The predictor's network in an order of memory: that which torch makes, or the one that CPUs like better."""
    import torch

    order = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
    return copy.deepcopy(_network(encoder)).to(memory_format=order)


def _plain_loop(predictor: Any, model: Any, folder: Path, out: Path) -> int:
    """What a notebook does with torch, OpenCV and the competition's run lengths."""
    import torch

    from bench.speed.kaggle_rle import mask_to_rle

    names = sorted(path.name for path in folder.iterdir())
    with torch.inference_mode(), out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId_ClassId", "EncodedPixels"])
        for name in names:
            image = cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE)
            inputs = (torch.from_numpy(image).float() / 255 - predictor.mean[0]) / predictor.std[0]
            masks = torch.sigmoid(model(inputs[None, None])["segmentation"])[0].numpy() > 0.5
            writer.writerows([f"{name}_{k}", mask_to_rle(mask)] for k, mask in enumerate(masks, 1))
    return len(names)


def gated(folder: str, encoder: str, skips: bool) -> Measure:
    """As `files`, by a decision whose binary gate clears half of the images; their decoders run only if not `skips`."""
    from steel.decision import ClassDecision, Decision

    predictor = _predictor(encoder)
    probs = [prediction.label_probs[0] for prediction in predictor.predict_stream(sorted(Path(folder).iterdir()))]
    before = predictor.decision
    predictor.decision = Decision((ClassDecision(),) * 4, gate="binary", binary_threshold=int(np.median(probs)) + 1)
    try:
        with patch("steel.inference.predictor.MOST_PIXELS", 1 << 22 if skips else 0):
            return files(folder, encoder)
    finally:
        predictor.decision = before


def validate(folder: str, encoder: str, usual: bool, workers: int | None = None) -> Measure:
    """The statistics of all images of the shards, as an epoch's validation collects them; loader workers by default."""
    from steel.distributed.runtime import start as start_runtime
    from steel.shards.reader import ShardReader
    from train.engine.run_inference import collect_statistics

    predictor, reader = _predictor(encoder, folded=not usual), ShardReader(f"{folder}/shards")
    runtime = start_runtime("no", cpu=True)
    with _way(usual, 1):
        start, rows = time.perf_counter(), np.arange(len(reader))
        found = collect_statistics(
            predictor, reader, rows, runtime, decision=None, workers="auto" if workers is None else workers
        )
        return Measure(len(found), time.perf_counter() - start)


def forward(encoder: str, height: int, width: int, batch_size: int, at_once: bool) -> Measure:
    """Forward passes over eight images; at once: a thread each, else one pass after another on all threads."""
    import torch

    predictor = _predictor(encoder)
    images = torch.randint(0, 256, (batch_size, 1, height, width), dtype=torch.uint8)
    batches = [images] * max(THREADS, EIGHT // batch_size)
    with patch("steel.model.passes._LARGE_PASS", 1 << 30 if at_once else 0):
        start = time.perf_counter()
        for _ in predictor.stream_probabilities(batches):
            pass
        return Measure(len(batches) * batch_size, time.perf_counter() - start)


def _rows_of_sizes(root: Path, encoder: str) -> Iterator[Row]:
    """Images of many sizes. When a batch had eight places, validation had two loader processes by default."""
    usual = "batches of 8, filled up with black, BatchNorms as they are"
    for name, (words, _, _) in SIZES.items():
        how = {"folder": str(root / name), "encoder": encoder}
        title = f"{NUM_IMAGES} images of {NUM_SIZES} sizes, {words}"
        ours, theirs = how | {"usual": False}, how | {"usual": True}
        predicting = (
            Side("passes by pixels", "ours", "predict", ours),
            Side(usual, "usual", "predict", theirs, 3.0),
        )
        yield Row(f"predict-{name}", f"predict: {title}", "images/s", predicting)
        validating = (
            Side("passes by pixels", "ours", "validate", ours),
            Side(f"{usual}; two loader processes", "usual", "validate", theirs | {"workers": 2}, 3.0),
            Side(f"{usual}; none", "usual", "validate", theirs | {"workers": 0}),
        )
        yield Row(f"validate-{name}", f"validate: {title}", "images/s", validating)


def table(root: Path, encoder: str) -> list[Row]:
    """All rows."""
    rows = list(_rows_of_sizes(root, encoder))
    how: dict[str, Any] = {"folder": str(root / "strips"), "encoder": encoder}
    words = f"{NUM_STRIPS} JPEG files of 256x1600 to submission.csv"
    sides: tuple[Side, ...] = (
        Side("`steel predict`", "ours", "files", how),
        Side("plain loop: torch, cv2, numpy run lengths", "usual", "files", how | {"plain": "nchw"}, 1.5),
        Side("the same, network in channels_last", "usual", "files", how | {"plain": "channels_last"}),
    )
    rows.append(Row("files", words, "images/s", sides))
    sides = (
        Side("no decoder for images that the gate clears", "ours", "gated", how | {"skips": True}),
        Side("decoders for all", "ours", "gated", how | {"skips": False}),
    )
    rows.append(Row("gated", f"{words}, a binary gate that clears half", "images/s", sides))
    for height, width in SHAPES:
        how = {"encoder": encoder, "height": height, "width": width}
        sides = tuple(
            Side(
                f"{batch_size} images per pass, {words}",
                "ours",
                "forward",
                how | {"batch_size": batch_size} | {"at_once": at_once},
            )
            for at_once, words in (
                (True, "two passes at once, one thread each"),
                (False, "one pass at a time, two threads"),
            )
            for batch_size in (1, 2, 4, 8)
        )
        rows.append(Row("forward", f"forward passes of {height}x{width}", "images/s", sides))
    return rows


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.predictions", description=__doc__)
    parser.add_argument("--encoder", default="tu-test_resnet", help="of the U-Net; this is the demo's")
    names = list(dict.fromkeys(row.name for row in table(Path(), "")))
    only = f"measure only these of {', '.join(names)}"
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help=only)
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="rounds that count, after one that does not"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "predictions.md", metavar="FILE", help="the table")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench", metavar="DIR", help="for the data sets")
    options, begun = parser.parse_args(), begin()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    root = options.work.absolute() / "predictions"
    root.mkdir(parents=True, exist_ok=True)
    rows = [row for row in table(root, options.encoder) if not options.rows or row.name in options.rows]
    needed = {Path(side.options["folder"]).name for row in rows for side in row.sides if "folder" in side.options}
    for name in needed & SIZES.keys():
        make_dataset(root / name, name)
    if "strips" in needed:
        make_strips(root / "strips")
    start: dict[str, Callable[[], Worker]] = {
        where: partial(Worker, sys.executable, "bench.predictions", root.parent / "predictions.log")
        for where in ("ours", "usual")
    }
    total = num_measurements(rows, options.repeats)
    with Workers(start) as workers, tqdm(total=total, unit="measurement", mininterval=2) as bar:
        results = [measure_row(row, options.repeats, workers, bar) for row in rows]
    facts = facts_of_run("bench.predictions", begun, ("torch", "numpy", "opencv-python-headless")) | {
        "repeats": repeats_of(rows, options.repeats),
        "network": f"U-Net on {options.encoder}, gray, 4 classes, float32, plain view",
    }
    write_report(options.out, results, facts, NOTES, TITLE)
    print(options.out.read_text())


if __name__ == "__main__":
    main()
