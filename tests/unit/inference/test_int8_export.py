"""`steel export --int8`: its figures are those of the predictions that are written, and too great a loss is refused."""

import csv
import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from steel import load_predictor
from steel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, stack_members
from steel.checkpoint_header import METADATA_KEY
from steel.cli import main
from steel.config import NetworkConfig, TilingConfig
from steel.decision import ClassDecision, Decision
from steel.errors import InputError
from steel.inference import int8_export, int8_report, onnx_export
from steel.inference.load import read_any_header
from steel.inference.onnx_export import make_onnx
from steel.model.network import SEGMENTATION, UnifiedModel
from steel.shards.reader import ShardReader
from tests.integration.plain_score import score
from tests.paths import ROOT
from tests.serving import serving
from tests.shard_folder import make_shards

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZE = (32, 64)
NUM_IMAGES = 36
CLASSES = ("class 1", "class 2")
DECISION = Decision(
    (ClassDecision(pixel_threshold=120), ClassDecision(pixel_threshold=140, min_area=12)), tta=("hflip",)
)
SCORED, RANGES, BLACK = 0, 1, 2
"""Folds: with bright defects and dark ones, likewise, and all black."""


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W) with at most one defect of each class, and its bitmask."""
    rng = np.random.default_rng(number)
    image, bitmask = rng.integers(90, 150, SIZE, dtype=np.uint8), np.zeros(SIZE, np.uint8)
    if number % 3 == BLACK:
        return np.zeros_like(image), bitmask
    for k in range(2):
        if rng.random() < 0.6:
            top, left = int(rng.integers(0, 20)), int(rng.integers(0, 44))
            there = np.s_[top : top + 10, left : left + 16]
            image[there] = rng.integers(200, 250, (10, 16)) if k == 0 else rng.integers(5, 40, (10, 16))
            bitmask[there] = 1 << k
    return image, bitmask


def train(network: NetworkConfig) -> dict[str, torch.Tensor]:
    """A network that sees what `picture` draws, for the most part."""
    torch.manual_seed(0)
    model = UnifiedModel(network)
    pairs = [picture(number) for number in range(1000, 1024)]
    images = torch.from_numpy(np.stack([image for image, _ in pairs]))[:, None].float() / 255 - 0.45
    masks = torch.from_numpy(np.stack([[bits == 1, bits == 2] for _, bits in pairs])).float()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        logits = model(images / 0.2)[SEGMENTATION]
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits, masks, pos_weight=torch.tensor(4.0)).backward()
        optimizer.step()
    return {name: tensor.detach()[None] for name, tensor in model.state_dict().items()}


class Plant(NamedTuple):
    """A folder with `model.safetensors`, `shards/`, and `images/`, those of the fold that is scored."""

    root: Path
    truth: Path
    names: dict[str, tuple[int, int]]

    def export(self, name: str, *options: str) -> int:
        """`steel export` to `name`; with `--int8` from the shards, if there are options."""
        line = ["export", str(self.root / "model.safetensors"), "--onnx", str(self.root / name)]
        return main([*line, *(("--int8", str(self.root / "shards"), *options) if options else ())])

    def score(self, name: str) -> dict[str, object]:
        """What `steel predict` writes with a graph, scored by a plain program."""
        out = self.root / f"of-{name}"
        assert main(["predict", str(self.root / name), str(self.root / "images"), "--out", str(out)]) == 0
        return score(out / "submission.csv", self.truth, self.names, len(CLASSES))


def run_lengths(mask: np.ndarray) -> str:
    """Kaggle's, by hand: starts from 1 and lengths, column by column."""
    padded = np.concatenate([[0], mask.T.ravel().astype(int), [0]])
    starts, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    root = tmp_path_factory.mktemp("int8")
    pictures = [picture(number) for number in range(NUM_IMAGES)]
    shards = make_shards(root / "shards", *zip(*pictures, strict=True), num_classes=2, folds=3)  # type: ignore[arg-type]
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(16, 8))
    checkpoint = Checkpoint(
        network,
        CLASSES,
        (0.45,),
        (0.2,),
        train(network),
        DECISION,
        folds={"train": [RANGES], "tuning": [SCORED], "test": [BLACK]},
        provenance={"data_digest": ShardReader(shards).manifest.digest},
        tiling=TilingConfig(budget=9000, tile=64, overlap=32),
    )
    save_checkpoint(root / "model.safetensors", checkpoint)
    (root / "images").mkdir()
    numbers = [number for number in range(NUM_IMAGES) if number % 3 == SCORED]
    with open(root / "truth.csv", "w") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "ClassId", "EncodedPixels"])
        for number in numbers:
            image, bitmask = pictures[number]
            cv2.imwrite(str(root / "images" / f"{number}.png"), image)
            rows.writerows([f"{number}.png", k + 1, run_lengths(bitmask == 1 << k)] for k in range(2))
    return Plant(root, root / "truth.csv", {f"{number}.png": SIZE for number in numbers})


@pytest.fixture(autouse=True, scope="module")
def graph_made_once() -> Iterator[None]:
    """All files here are of one network, whose graph of float32 takes most of an export's time."""
    made: list[tuple[bytes, int]] = []

    def make_once(checkpoint: Checkpoint, tta: Sequence[str] | None) -> tuple[bytes, int]:
        if not made:
            made.append(make_onnx(checkpoint, tta))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "make_onnx", make_once)
        patch.setattr(int8_export, "make_onnx", make_once)
        yield


@pytest.fixture(scope="module")
def told(plant: Plant) -> str:
    """What `steel export --int8` prints."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda text: lines.append(text))
        assert plant.export("int8.onnx", "--int8-images", "8", "--int8-max-loss", "1") == 0
    return "\n".join(lines)


def test_the_figures_are_those_of_the_written_predictions(plant: Plant, told: str) -> None:
    assert plant.export("float.onnx") == 0
    model = onnx.load(plant.root / "int8.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    stored = json.loads(entry.value)["content"]["int8"]
    assert (stored["calibration_folds"], stored["calibration_images"]) == ([RANGES], 8)
    assert (stored["scored_folds"], stored["scored_images"]) == ([SCORED], len(plant.names))
    for side, name in (("float32", "float.onnx"), ("int8", "int8.onnx")):
        found = plant.score(name)
        assert stored[side]["mean_dice"] == pytest.approx(found["mean_dice"], abs=1e-12)
        assert stored[side]["positive_dice"] == pytest.approx(found["mean_dice_positive"], abs=1e-12)
        assert found["mean_dice_positive"] > 0.5  # type: ignore[operator]
        said = re.search(rf"{side} +([\d.]+) +([\d.]+) +([\d.]+)", told)
        assert said is not None and float(said[3]) > 0
        assert [float(said[1]), float(said[2])] == [round(stored[side][n], 4) for n in ("mean_dice", "positive_dice")]
    assert stored["float32"] != stored["int8"]


def test_the_page_names_what_is_stored(plant: Plant, told: str) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \| ", page[page.index("| in `int8`") :], re.MULTILINE)
    stored = read_any_header(plant.root / "int8.onnx")["int8"]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == stored.keys()
    assert all(f"`{name}`" in page for name in stored["int8"])
    assert (int8_report.NUM_IMAGES, int8_report.MAX_LOSS) == (100, 0.005)


def test_weights_are_bytes_with_a_scale_for_each_channel(plant: Plant, told: str) -> None:
    model = onnx.load(plant.root / "int8.onnx")
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 10
    for node in convolutions:
        image, weight = (made_by[name] for name in node.input[:2])
        assert (image.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        values, scales = (tensors[name] for name in weight.input[:2])
        assert values.dtype == np.int8 and np.abs(values.astype(int)).max() <= 64
        assert scales.shape == values.shape[:1]


def test_it_predicts_like_any_graph(plant: Plant, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    predictor, plain = load_predictor(plant.root / "int8.onnx"), load_predictor(plant.root / "model.safetensors")
    assert (predictor.precision, predictor.decision, predictor.tta) == ("int8", DECISION, ("hflip",))
    for size in ((1, 1), (31, 33), (64, 96), (70, 199)):  # the last one in tiles
        image = np.random.default_rng(size[0]).integers(90, 150, size, dtype=np.uint8)
        image[size[0] // 2 :, size[1] // 2 :] = 230
        (found,), (expected,) = predictor.predict([image]), plain.predict([image])
        assert found.mask_probs.shape == (2, *size)
        assert np.abs(found.mask_probs.astype(int) - expected.mask_probs).mean() < 12
    assert main(["info", str(plant.root / "int8.onnx")]) == 0
    said = capsys.readouterr().out
    assert told.partition("\n")[2] in said
    assert "ranges from 8 images of fold 1; scored on 12 of fold 0" in said


def test_predict_and_serve_say_what_its_predictor_says(plant: Plant, told: str) -> None:
    """Images of other sizes than it was calibrated on, too; the last one goes in tiles."""
    for package in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(package)
    graph, folder, out = plant.root / "int8.onnx", plant.root / "other", plant.root / "of-other"
    folder.mkdir()
    for number, size in enumerate([SIZE, (31, 33), (5, 70), SIZE, (70, 199)]):
        image = np.random.default_rng(number).integers(90, 150, size, dtype=np.uint8)
        image[size[0] // 2 :, size[1] // 2 :] = 230
        cv2.imwrite(str(folder / f"{number}.png"), image)
    expected = {found.image_id: found for found in load_predictor(graph).predict(folder)}
    assert sum(bool(found.class_ids) for found in expected.values()) >= 3
    assert main(["predict", str(graph), str(folder), "--out", str(out), "--format", "jsonl,labelmaps"]) == 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert lines == [json.loads(json.dumps(expected[f"{number}.png"].to_dict())) for number in range(5)]
    with serving(graph) as server:
        for line in lines:
            name, file = line["image"], (folder / line["image"]).read_bytes()
            assert server.ask(f"/predict?name={name}", file).json == line
            labels = server.ask("/predict?format=labelmap", file).body
            assert labels == (out / "labelmaps" / name).read_bytes()
            assert np.array_equal(cv2.imdecode(np.frombuffer(labels, np.uint8), -1), expected[name].label_map())
        assert server.stop() == 0


def test_too_great_a_loss_is_refused(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    """Ranges from black images hold nothing of bright ones."""
    options = ("--int8-folds", str(BLACK), str(SCORED))
    assert plant.export("blind.onnx", *options) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"error: \S+blind\.onnx: not written: in 8 bits mean Dice is 0\.\d{4} instead of 0\.\d{4}, positive Dice "
        r"0\.\d{4} instead of 0\.\d{4}, on 12 images: more than --int8-max-loss 0\.005 is lost; --force writes it\n",
        said,
    )
    assert not list(plant.root.glob("*blind*"))
    assert plant.export("blind.onnx", *options, "--force") == 0
    assert load_predictor(plant.root / "blind.onnx").precision == "int8"


def test_folds_that_do_not_do_are_refused(plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [picture(number) for number in range(6)]
    others = make_shards(tmp_path / "others", *zip(*pictures, strict=True), num_classes=2, folds=2)  # type: ignore[arg-type]
    three = make_shards(tmp_path / "three", *zip(*pictures, strict=True), num_classes=3, folds=2)  # type: ignore[arg-type]
    shards = plant.root / "shards"
    for folder, options, said in (
        (others, (), "others: not the shards that the checkpoint says it was trained and tuned on; name"),
        (three, (), "the checkpoint: its classes are class 1, class 2, those of the shards class 1, class 2, class 3;"),
        (shards, ("--int8-folds", "0,1", "1"), "folds for int8: those that are scored must not give the ranges"),
        (shards, ("--int8-folds", "0,1", "2"), "folds for int8: no image of fold 2 has a defect; name others"),
        (shards, ("--int8-folds", "7", "0"), "calibration folds: fold 7 is not in the shards"),
    ):
        line = ["export", str(plant.root / "model.safetensors"), "--onnx", str(tmp_path / "no.onnx")]
        assert main([*line, "--int8", str(folder), *options]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "no.onnx").exists()


def test_its_own_shards_without_folds_that_tuned_alone_are_told_as_such(plant: Plant) -> None:
    """Two of a cross-validation, where what tuned one trained the other; packed as train.crossval does; tuned again."""
    first = load_checkpoint(plant.root / "model.safetensors")
    second = dataclasses.replace(first, folds={"train": [SCORED], "tuning": [RANGES], "test": [BLACK]})
    stacked, both = stack_members([first, second]), [SCORED, RANGES]
    packed = dataclasses.replace(stacked, folds={"train": both, "tuning": both, "test": [BLACK]})
    tuned = dataclasses.replace(first, folds={"train": [RANGES], "tuning": [RANGES], "test": [BLACK]})
    for checkpoint in (stacked, packed, tuned):
        with pytest.raises(InputError, match=r"shards: the checkpoint names no folds there .* with --int8-folds"):
            int8_export.export_int8(checkpoint, plant.root / "no.onnx", ShardReader(plant.root / "shards"))
