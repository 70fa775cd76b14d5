"""The score of a written submission is `metrics.json`, to the last digit: prediction and evaluation see the same."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from data_prep.__main__ import main as data_prep
from steel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, stack_members
from steel.cli import main as steel
from steel.config import NetworkConfig, TilingConfig
from steel.decision import ClassDecision, Decision
from steel.errors import InputError
from steel.model.network import UnifiedModel
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from steel.thresholds.tuning import Tuning, tune_thresholds
from tests.distributed.launching import run
from tests.integration.plain_score import decode, read_masks, score
from tests.numerics.quick import COARSE, quicken
from train.evaluate import main as evaluate
from train.fit import main as fit

NUM_CLASSES = 2
SIZES = [(40, 64), (37, 50), (64, 33), (23, 90), (40, 64), (61, 47), (9, 30), (40, 63), (70, 70), (37, 50), (15, 14)]
FLIPS = ("hflip", "vflip")
DECISION = Decision(
    classes=(ClassDecision(pixel_threshold=120, min_area=25), ClassDecision(pixel_threshold=140, max_area=4000)),
    gate="soft",
    tta=FLIPS,
)
TRAINING = (
    "--preset smoke --phases.0.epochs 0.5 --phases.1.epochs 0.1 --tiling.budget 3000 --tiling.tile 32 "
    "--tiling.overlap 8 --tracking.tracker none --runtime.workers 0 --runtime.precision no --validation.tta hflip "
    "--optim.ema-decay 0 --model.encoder tu-test_resnet --model.decoder-channels 8 8"
).split()
FINDS_SOMETHING = Decision(tuple(ClassDecision(pixel_threshold=t, min_area=25) for t in (67, 70)), tta=("hflip",))
"""Of a network that has hardly learnt: its probabilities are near the share of defective pixels."""


def tune_to_find(*arguments: Any, **options: Any) -> Tuning:
    """As in a training, but for the decision."""
    tuning = tune_thresholds(*arguments, **options | {"gates": ("none",), "space": COARSE})
    return dataclasses.replace(tuning, decision=FINDS_SOMETHING)


def encode(mask: np.ndarray) -> str:
    """Kaggle's run lengths: down the columns, counted from 1."""
    padded = np.concatenate([[0], mask.T.ravel(), [0]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))


class Plant:
    """Images with their truth, their shards, and a checkpoint that says something about them."""

    def __init__(
        self,
        root: Path,
        sizes: Sequence[tuple[int, int]],
        channels: int = 1,
        resize: str = "",
        kind: str = "png",
        tile: str = "",
        folds: int = 1,
    ) -> None:
        self.root = root
        self.truth, self.shards, self.checkpoint = root / "truth.csv", root / "shards", root / "model.safetensors"
        self.sizes = {f"{'coil' if n % 2 else 'line'}/{n:02d}.{kind}": size for n, size in enumerate(sizes)}
        rng = np.random.default_rng(0)
        rows = ["ImageId,ClassId,EncodedPixels"]
        for name, (height, width) in self.sizes.items():
            (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            shape = (height, width) if channels == 1 else (height, width, 3)
            noise = rng.integers(0, 256, shape, dtype=np.uint8)
            cv2.imwrite(str(root / "images" / name), cv2.GaussianBlur(noise, (5, 5), 1.5))
            for k in range(1, NUM_CLASSES + 1):
                if rng.random() < 0.6:
                    mask = cv2.GaussianBlur(rng.random((height, width)), (9, 9), 3.0) > 0.5
                    rows.append(f"{name},{k},{encode(mask)}")
        self.truth.write_text("\n".join(rows) + "\n")
        options = ["--images", root / "images", "--labels", self.truth, "--out", self.shards, "--folds", folds]
        more = ["--workers", 1, *(["--resize", resize] if resize else []), *(["--tile", tile] if tile else [])]
        assert data_prep([str(o) for o in (*options, *more)]) == 0

    def make_checkpoint(self, members: int = 1, architecture: str = "Unet", **changes: Any) -> Path:
        """A random network whose masks are about half on."""
        manifest = Manifest.load(str(self.shards))
        widths = (8, 8) if architecture == "Unet" else None
        network = NetworkConfig(architecture, "tu-test_resnet", NUM_CLASSES, manifest.channels, widths)
        parts = []
        for seed in range(members):
            torch.manual_seed(seed)
            model = UnifiedModel(network)
            with torch.no_grad():
                model.segmentation_head[0].weight.mul_(20)
            tensors = {name: tensor.detach()[None] for name, tensor in model.state_dict().items()}
            size = manifest.options.get("resize")
            parts.append(
                Checkpoint(
                    network,
                    manifest.class_names,
                    manifest.mean,
                    manifest.std,
                    tensors,
                    **{"decision": DECISION, **changes},
                    folds={"train": [], "tuning": [], "test": [0]},
                    input_size=None if size is None else (int(size[0]), int(size[1])),
                )
            )
        packed = parts[0] if members == 1 else stack_members(parts)
        save_checkpoint(self.checkpoint, packed)
        return self.checkpoint

    def predict(self, *options: object) -> Path:
        out = self.root / "predicted"
        line = ["predict", self.checkpoint, self.root / "images", "--out", out, "--device", "cpu", *options]
        assert steel([str(o) for o in line]) == 0
        return out / "submission.csv"

    def evaluate(self, *options: object, ranks: int = 1) -> dict[str, Any]:
        out = self.root / f"evaluated-{ranks}"
        line = ["--checkpoint", self.checkpoint, "--data", self.shards, "--folds", "all", "--out", out, *options]
        if ranks == 1:
            assert evaluate([str(o) for o in line]) == 0
        else:
            run(ranks, "train.evaluate", *line)
        return json.loads((out / "metrics.json").read_text())

    def score(self, submission: Path) -> dict[str, Any]:
        return score(submission, self.truth, self.sizes, NUM_CLASSES)


def plain(figure: Any) -> Any:
    """A figure, or those of the classes in their order."""
    return list(figure.values()) if isinstance(figure, dict) else figure


def assert_equal(metrics: dict[str, Any], expected: dict[str, Any]) -> None:
    """To the last digit."""
    for name, value in expected.items():
        assert plain(metrics[name]) == value, name
    assert 0.1 < metrics["mean_dice_positive"] < 0.9


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("channels", [1, 3])
def test_mixed_sizes_in_gray_and_colour(tmp_path: Path, channels: int) -> None:
    plant = Plant(tmp_path, SIZES, channels)
    plant.make_checkpoint()
    assert_equal(plant.evaluate(), plant.score(plant.predict()))


@pytest.mark.usefixtures("fresh_accelerate")
def test_large_images_in_tiles(tmp_path: Path) -> None:
    """Some images whole, some in tiles: the tiling is the checkpoint's, in evaluation as in prediction."""
    plant = Plant(tmp_path, [*SIZES[:6], (90, 260), (260, 61)])
    plant.make_checkpoint()
    whole = plant.evaluate()
    plant.make_checkpoint(tiling=TilingConfig(budget=3000, tile=32, overlap=8))
    tiled = plant.evaluate("--tune-thresholds")
    plant.checkpoint = tmp_path / "evaluated-1" / "model.safetensors"
    assert load_checkpoint(plant.checkpoint).tiling == TilingConfig(budget=3000, tile=32, overlap=8)
    assert_equal(tiled, plant.score(plant.predict()))
    assert tiled["mean_dice"] != whole["mean_dice"]


@pytest.mark.usefixtures("fresh_accelerate")
def test_images_that_the_shards_hold_in_tiles(tmp_path: Path) -> None:
    """One score of an image, each of its pixels once: all of `metrics.json` as of shards that hold it whole."""
    sizes = [*SIZES[:3], (90, 260), (160, 61), (128, 128)]
    whole, tiled = (Plant(tmp_path / (tile or "whole"), sizes, kind="jpg", tile=tile) for tile in ("", "64x64"))
    manifest = Manifest.load(str(tiled.shards))
    assert manifest.num_images == len(sizes)
    assert manifest.num_samples > 2 * len(sizes)
    found = []
    for plant in (whole, tiled):
        plant.make_checkpoint(tiling=TilingConfig(budget=3000, tile=32, overlap=8))
        metrics = plant.evaluate("--tune-thresholds")
        found.append({name: value for name, value in metrics.items() if name not in ("speed", "provenance")})
    assert found[0] == found[1]
    tiled.checkpoint = tiled.root / "evaluated-1" / "model.safetensors"
    assert_equal(metrics, tiled.score(tiled.predict()))


@pytest.mark.usefixtures("fresh_accelerate")
def test_from_shards_in_tiles_to_a_trained_network_and_its_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the run says of its validation fold, and the evaluation of all, are the score of the original images."""
    torch.set_num_threads(1)
    quicken(monkeypatch)
    monkeypatch.setattr("train.engine.validation.tune_thresholds", tune_to_find)
    plant = Plant(tmp_path, [(64, 160), (130, 90), (40, 64)] * 3, channels=3, kind="jpg", tile="64x64", folds=3)
    reader, run_folder = ShardReader(plant.shards), tmp_path / "run"
    assert len(reader.samples) > 3 * len(reader)
    assert fit([*TRAINING, "--data", str(plant.shards), "--out", str(run_folder)]) == 0
    plant.checkpoint = run_folder / "model.safetensors"
    trained = load_checkpoint(plant.checkpoint)
    assert trained.tiling == TilingConfig(budget=3000, tile=32, overlap=8)
    assert trained.folds["tuning"] == [0]
    submission = plant.predict("--precision", "no")
    assert_equal(plant.evaluate("--precision", "no"), plant.score(submission))
    fold = {reader.index.image_id(row) for row in reader.index.rows([0])}
    assert len(fold) == 3
    validation = json.loads((run_folder / "validation.json").read_text())
    found = score(submission, plant.truth, {name: plant.sizes[name] for name in fold}, NUM_CLASSES)
    assert {name: plain(validation[name]) for name in found} == found


@pytest.mark.usefixtures("fresh_accelerate")
def test_colour_for_a_gray_network_is_refused(tmp_path: Path) -> None:
    gray, colour = Plant(tmp_path / "gray", SIZES[:2]), Plant(tmp_path / "colour", SIZES[:2], channels=3)
    gray.make_checkpoint()
    colour.checkpoint = gray.checkpoint
    with pytest.raises(InputError, match=r"takes gray images, the shards hold colour ones"):
        colour.evaluate()


@pytest.mark.usefixtures("fresh_accelerate")
def test_an_ensemble_with_other_views_and_pixels_per_pass(tmp_path: Path) -> None:
    plant = Plant(tmp_path, SIZES)
    # Packed members have no decision: thresholds of one half.
    plant.make_checkpoint(members=2)
    how = ["--tta", "hvflip", "--pixels-per-pass", 5000]
    assert_equal(plant.evaluate(*how), plant.score(plant.predict(*how)))


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_images_that_the_shards_hold_reduced(tmp_path: Path, kind: str) -> None:
    """Thresholds and areas are those of the original size, pixels those of the original file."""
    plant = Plant(tmp_path, [(80, 120)] * 8 + [(64, 100)] * 3, resize="41x60", kind=kind)
    plant.make_checkpoint()
    assert_equal(plant.evaluate(), plant.score(plant.predict()))


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_precision_is_the_devices_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that is fast at bf16 both take it; what a launcher says of training changes neither."""
    plant = Plant(tmp_path, SIZES[:5])
    plant.make_checkpoint()
    scores = []
    for fast, launched in ((False, "bf16"), (True, "no")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
        AcceleratorState._reset_state(reset_partial_state=True)
        scores.append(plant.score(plant.predict()))
        assert_equal(plant.evaluate(), scores[-1])
    assert scores[0] != scores[1]


@pytest.mark.usefixtures("fresh_accelerate")
def test_two_ranks(tmp_path: Path) -> None:
    plant = Plant(tmp_path, SIZES)
    plant.make_checkpoint(architecture="FPN")
    metrics = plant.evaluate(ranks=2)
    assert_equal(metrics, plant.score(plant.predict()))


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_exported_graph(tmp_path: Path) -> None:
    """Its probabilities are within 1 of 255: only pixels that are as near to a threshold may be answered otherwise."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    plant = Plant(tmp_path, SIZES)
    thresholds = (120, 140)
    decision = Decision(tuple(ClassDecision(pixel_threshold=t) for t in thresholds), tta=("vflip",))
    plant.make_checkpoint(decision=decision)
    assert steel(["export", str(plant.checkpoint), "--onnx", str(tmp_path / "model.onnx")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    submission = plant.predict("--precision", "no")
    assert_equal(plant.evaluate("--precision", "no"), plant.score(submission))
    said, rows, near, other = read_masks(submission), ["ImageId_ClassId,EncodedPixels"], 0, 0
    for name, size in plant.sizes.items():
        image = cv2.imread(str(tmp_path / "images" / name), cv2.IMREAD_GRAYSCALE)
        (mask_probs,) = session.run(["mask_probs"], {"images": image[None, None]})
        for k, threshold in enumerate(thresholds):
            probs = mask_probs[0, k].astype(int)
            is_near = np.abs(probs - threshold + 0.5) < 1  # just below it, or at it
            differs = (probs >= threshold) != decode(said[name, k + 1], *size)
            assert not (differs & ~is_near).any(), (name, k)
            near, other = near + int(is_near.sum()), other + int(differs.sum())
            rows.append(f"{name}_{k + 1},{encode(probs >= threshold)}")
    (tmp_path / "onnx.csv").write_text("\n".join(rows) + "\n")
    num_pixels = NUM_CLASSES * sum(h * w for h, w in SIZES)
    assert other <= near < 0.05 * num_pixels
    assert other < 0.002 * num_pixels  # measured: none, or a few
    difference = plant.score(tmp_path / "onnx.csv")["mean_dice"] - plant.score(submission)["mean_dice"]
    assert abs(difference) < 0.002
