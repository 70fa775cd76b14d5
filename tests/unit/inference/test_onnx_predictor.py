"""The exported graph as a predictor: what torch predicts but for a rounding, by the same commands, without torch."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import steel
from steel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from steel.checkpoint_header import make_metadata, parse_metadata
from steel.cli import main
from steel.config import NetworkConfig, TilingConfig
from steel.decision import ClassDecision, Decision
from steel.errors import InputError
from steel.images.geometry import resize_image
from steel.inference.load import digest_source
from steel.inference.onnx_predictor import OnnxPredictor, read_onnx_header, session_threads
from steel.inference.predictor import Predictor
from steel.inference.tiles import make_tiles
from steel.labels.rle import decode_rle
from steel.labels.submission import read_submission
from steel.model.network import UnifiedModel
from tests.image_folder import tree_digest
from tests.paths import ROOT
from tests.second_environment import make_environment, make_wheel

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

SIZES = [(1, 1), (3, 100), (31, 33), (64, 96), (101, 35), (40, 48), (40, 48), (9, 128), (5, 4), (40, 48), (63, 32)]
"""Smaller than the stride, no multiples of it, odd and even, single rows, whole strides, several alike."""
THRESHOLDS = (120, 140)
DECISION = Decision(tuple(ClassDecision(pixel_threshold=t) for t in THRESHOLDS), tta=("hflip", "vflip"))
FORMATS = "kaggle,coco,jsonl,table,masks,overlays"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.safetensors`, `model.onnx`, and `images/` of all sizes, gray and colour."""
    root = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    model = UnifiedModel(network)
    with torch.no_grad():
        model.segmentation_head[0].weight.mul_(20)  # so that masks are not all of one value, nor labels
        model.classification_head.linear.weight.mul_(6)
        model.classification_head.reliance.copy_(torch.tensor([0.1, -0.05]))
    tensors = {name: tensor.detach()[None] for name, tensor in model.state_dict().items()}
    checkpoint = Checkpoint(network, ("spot", "trace"), (0.4,), (0.2,), tensors, DECISION)
    save_checkpoint(root / "model.safetensors", checkpoint)
    assert main(["export", str(root / "model.safetensors"), "--onnx", str(root / "model.onnx")]) == 0
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    for number, size in enumerate(SIZES):
        image = rng.integers(0, 256, (*size, 3) if number % 3 == 0 else size, dtype=np.uint8)
        cv2.imwrite(str(root / "images" / f"{number:02d}.png"), image)
    return root


@pytest.fixture(scope="module")
def graph(folder: Path) -> OnnxPredictor:
    return OnnxPredictor.from_file(folder / "model.onnx", pixels_per_pass=4000)


@pytest.mark.parametrize("input_size", [None, (24, 50)])
def test_probabilities_differ_by_at_most_one(
    folder: Path, graph: OnnxPredictor, monkeypatch: pytest.MonkeyPatch, input_size: tuple[int, int] | None
) -> None:
    predictor = Predictor.from_checkpoint(folder / "model.safetensors", device="cpu", precision="no")
    for one in (predictor, graph):
        monkeypatch.setattr(one, "input_size", input_size)
    for name in ("class_names", "decision", "is_tuned", "tta", "in_channels", "stride", "depth"):
        assert getattr(graph, name) == getattr(predictor, name), name
    near = other = 0
    found, expected = (one.predict(folder / "images") for one in (graph, predictor))
    assert [p.image_id for p in found] == [p.image_id for p in expected] == [f"{n:02d}.png" for n in range(len(SIZES))]
    for own, theirs, size in zip(found, expected, SIZES, strict=True):
        assert own.mask_probs.shape == (2, *size)
        assert np.abs(own.mask_probs.astype(int) - theirs.mask_probs).max() <= 1
        assert np.abs(own.label_probs.astype(int) - theirs.label_probs).max() <= 1
        is_near = np.abs(theirs.mask_probs - np.array(THRESHOLDS)[:, None, None] + 0.5) < 1  # just below it, or at it
        differs = own.masks != theirs.masks
        assert not (differs & ~is_near).any()
        near, other = near + int(is_near.sum()), other + int(differs.sum())
    num_pixels = 2 * sum(height * width for height, width in SIZES)
    assert other <= near < 0.05 * num_pixels
    assert other < 0.002 * num_pixels


def test_a_graph_that_was_loaded_again_is_the_same_model_and_one_of_other_weights_is_not(
    folder: Path, graph: OnnxPredictor, tmp_path: Path
) -> None:
    assert OnnxPredictor.from_file(folder / "model.onnx").model_digest() == graph.model_digest()
    plain = load_checkpoint(folder / "model.safetensors")
    first = next(iter(plain.tensors))
    other = dataclasses.replace(plain, tensors=plain.tensors | {first: plain.tensors[first] + 1})
    save_checkpoint(tmp_path / "other.safetensors", other)
    assert main(["export", str(tmp_path / "other.safetensors"), "--onnx", str(tmp_path / "other.onnx")]) == 0
    assert OnnxPredictor.from_file(tmp_path / "other.onnx").model_digest() != graph.model_digest()


def test_a_graph_keeps_what_its_file_was_when_it_was_loaded(folder: Path, graph: OnnxPredictor) -> None:
    assert graph.header == read_onnx_header(folder / "model.onnx")
    assert graph.file_digest == digest_source(folder / "model.onnx")


def test_the_first_number_of_omp_num_threads_counts_and_what_is_none_is_not_blamed_on_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, threads in (("3", 3), ("4,2", 4), (" 2 , 1", 2)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert session_threads() == threads
        assert OnnxPredictor.from_file(folder / "model.onnx").class_names == ("spot", "trace")
    for text in ("", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert session_threads() >= 1
    for text in ("many", "-1", "2.5", ",2"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        with pytest.raises(InputError, match=f"^OMP_NUM_THREADS={text}: not a number of threads; give one"):
            OnnxPredictor.from_file(folder / "model.onnx")


TILED = [(64, 96), (130, 61), (70, 199), (50, 50), (33, 400), (300, 34), (90, 45)]
"""Beyond 2000 pixels, in whole strides and not: squares, rows of tiles, columns of them, and grids."""


@pytest.mark.parametrize("input_size", [None, (61, 90)])
def test_large_images_are_taken_in_tiles(
    folder: Path, graph: OnnxPredictor, monkeypatch: pytest.MonkeyPatch, input_size: tuple[int, int] | None
) -> None:
    """Masks and labels are the checkpoint's; these are told once, of the whole, which no tile's own labels are."""
    predictor = Predictor.from_checkpoint(folder / "model.safetensors", device="cpu", precision="no")
    tiling, steps = TilingConfig(budget=2000, tile=48, overlap=16), list[tuple[int, int]]()
    for one in (predictor, graph):
        monkeypatch.setattr(one, "tiling", tiling)
        monkeypatch.setattr(one, "input_size", input_size)
    monkeypatch.setattr(graph, "on_tile", lambda done, total: steps.append((done, total)))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    all_labels, differs = [], False
    for number, size in enumerate(TILED):
        image = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        image[: size[0] // 2] //= 1 + number  # so that not all tiles look alike
        steps.clear()
        (found,), (expected,) = graph.predict([image]), predictor.predict([image])
        assert found.mask_probs.shape == (2, *size) and np.ptp(found.mask_probs) > 20
        assert np.abs(found.network_probs.astype(int) - expected.network_probs).max() <= 1, size
        off = np.abs(found.mask_probs.astype(int) - expected.mask_probs)
        # Back at the image's size they are rounded once more.
        assert off.max() <= (1 if input_size is None else 2) and (off > 1).mean() < 0.0005, size
        assert np.abs(found.label_probs.astype(int) - expected.label_probs).max() <= 1, size
        all_labels.append(found.label_probs)

        shown = image if input_size is None else resize_image(image, input_size)
        padded = np.pad(shown, [(0, -side % graph.stride) for side in shown.shape], mode="reflect")
        tiles = make_tiles(*padded.shape, tiling, graph.stride)
        parts = [padded[rows.start : rows.stop, columns.start : columns.stop] for rows, columns in tiles]
        of_tiles = np.stack([session.run(["label_probs"], {"images": part[None, None]})[0][0] for part in parts])
        for summary in (of_tiles.max(axis=0), of_tiles.mean(axis=0)):
            differs |= bool(np.abs(summary - expected.label_probs.astype(float)).max() > 2)
        assert len(parts) > 1 and steps == [(done, len(parts)) for done in range(1, len(parts) + 1)]
    assert differs and np.ptp(all_labels, axis=0).max() > 2, all_labels


def test_gates_decide_of_images_in_tiles_what_they_decide_with_torch(
    folder: Path, graph: OnnxPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thresholds in the midst of what the head says of these images."""
    predictor = Predictor.from_checkpoint(folder / "model.safetensors", device="cpu", precision="no")
    for one in (predictor, graph):
        monkeypatch.setattr(one, "tiling", TilingConfig(budget=2000, tile=48, overlap=16))
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 1 + rng.integers(1, 256), size, dtype=np.uint8) for size in TILED * 3]
    probs = np.stack([one.label_probs for one in predictor.predict(images)]).astype(int)
    anything, *own = np.median(probs, axis=0).astype(int).tolist()
    classes = tuple(ClassDecision(pixel_threshold=1, label_threshold=threshold) for threshold in own)
    is_near = (np.abs(probs - [anything, *own]) <= 1).any(axis=1)
    for gate in ("binary", "class", "binary+class"):
        decision = Decision(classes, gate=gate, binary_threshold=anything)
        found, expected = (
            np.stack([one.masks.any(axis=(1, 2)) for one in each.predict(images, decision)])
            for each in (graph, predictor)
        )
        assert 0 < expected[~is_near].sum() < expected[~is_near].size > 10, gate
        np.testing.assert_array_equal(found[~is_near], expected[~is_near], gate)


def test_the_command_writes_what_torch_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = []
    for name in ("model.onnx", "model.safetensors"):
        out = folder / f"of-{name}"
        line = ["predict", str(folder / name), str(folder / "images"), "--out", str(out), "--device", "cpu"]
        assert main([*line, "--precision", "no", "--format", FORMATS]) == 0
        assert f"{len(SIZES)} images; " in capsys.readouterr().out
        sizes = {f"{number:02d}.png": size for number, size in enumerate(SIZES)}
        rows = read_submission(out / "submission.csv").rows
        masks.append({(r.image_id, r.class_id): decode_rle(r.rle, *sizes[r.image_id]) for r in rows})
    files = [sorted(p.relative_to(folder / f"of-{name}") for p in (folder / f"of-{name}").rglob("*.*"))
             for name in ("model.onnx", "model.safetensors")]  # fmt: skip
    assert files[0] == files[1]
    assert masks[0].keys() == masks[1].keys()
    assert sum((masks[0][key] != masks[1][key]).sum() for key in masks[0]) < 0.002 * 2 * sum(h * w for h, w in SIZES)
    assert sum(mask.sum() for mask in masks[0].values()) > 1000


BLOCKED = """
import sys

sys.modules.update(dict.fromkeys({names}))  # as Python says that a module is not to be had
import steel
from steel.cli import main

folder = sys.argv[1]
image = f"{{folder}}/images/03.png"
line = [f"{{folder}}/images", "--out", f"{{folder}}/without", "--device", "cpu", "--precision", "no"]
assert main(["predict", f"{{folder}}/model.onnx", *line, "--format", "{formats}"]) == 0
assert main(["info", f"{{folder}}/model.onnx"]) == 0
(prediction,) = steel.load_predictor(f"{{folder}}/model.onnx").predict(image)
print(prediction.masks.shape, len(prediction.regions()) > 0)
assert main(["predict", f"{{folder}}/model.safetensors", image, "--out", f"{{folder}}/refused"]) == 2
"""
TRAINING = (
    *("torch", "torchvision", "accelerate", "timm", "segmentation_models_pytorch", "safetensors", "onnx", "onnxscript"),
    *("albumentations", "webdataset", "sklearn", "wandb", "tyro"),
)


def test_nothing_of_training_is_imported(folder: Path) -> None:
    code = BLOCKED.format(names=TRAINING, formats=FORMATS)
    line = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "(2, 64, 96) True" in done.stdout
    assert "gate none; image defective from p = 0.502; flips averaged: hflip, vflip" in done.stdout
    assert done.stderr == "error: this command needs torch: pip install 'steel-defects[train]'\n"
    line = ["predict", str(folder / "model.onnx"), str(folder / "images"), "--out", str(folder / "with")]
    assert main([*line, "--format", FORMATS]) == 0
    assert tree_digest(folder / "without") == tree_digest(folder / "with")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_in_an_environment_with_the_extra_alone(folder: Path, tmp_path: Path) -> None:
    """A second environment in which pip has installed `steel-defects[onnx]` and nothing else."""
    make_wheel(tmp_path, tmp_path / "wheels")
    environment = make_environment(tmp_path / "env")
    (wheel,) = (tmp_path / "wheels").iterdir()
    subprocess.run(["pip", "install", f"{wheel}[onnx]"], check=True, env=environment, timeout=1800)
    line = [str(folder / "model.onnx"), str(folder / "images"), "--out"]
    command = ["steel", "predict", *line, tmp_path / "second", "--format", FORMATS]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)
    assert main(["predict", *line, str(tmp_path / "first"), "--format", FORMATS]) == 0
    assert tree_digest(tmp_path / "second") == tree_digest(tmp_path / "first")
    code = "import importlib.util as u, steel; print(u.find_spec('torch'), steel.__file__)"
    line = ["python", "-c", code]
    done = subprocess.run(line, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(f"None {tmp_path / 'env'}")


def test_what_a_graph_cannot_do_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.onnx").write_text("no graph")
    bare, damaged = onnx.load_model_from_string(data), onnx.load_model_from_string(data)
    del bare.metadata_props[:]
    (tmp_path / "bare.onnx").write_bytes(bare.SerializeToString())
    stored = json.loads(damaged.metadata_props[0].value)
    stored["content"]["decision"]["classes"][0]["pixel_threshold"] = 99
    damaged.metadata_props[0].value = json.dumps(stored)
    (tmp_path / "damaged.onnx").write_bytes(damaged.SerializeToString())
    old = onnx.load_model_from_string(data)
    _, content = parse_metadata("model.onnx", old.metadata_props[0].value)
    del content["label_heads"]
    old.metadata_props[0].value = make_metadata(content)
    (tmp_path / "old.onnx").write_bytes(old.SerializeToString())
    for name, said in (
        ("cut.onnx", "not an ONNX graph that can be run, or damaged"),
        ("text.onnx", "not an ONNX graph that can be run, or damaged"),
        ("bare.onnx", "an ONNX graph of another program; give one that `steel export` wrote"),
        ("damaged.onnx", "its header does not match its checksum"),
        ("old.onnx", "a graph of another version of this program; export the checkpoint again"),
        ("absent.onnx", "no such file"),
    ):
        for read in (steel.load_predictor, OnnxPredictor.from_file):
            with pytest.raises(InputError, match=f"{name}: {said}"):
                read(tmp_path / name)
    for options, said in (
        ({"tta": ()}, r"the views averaged are in the graph \(hflip, vflip\); export it again for others"),
        ({"precision": "bf16"}, "the graph computes in float32; leave out --precision bf16"),
        ({"device": "cuda"}, "device 'cuda' is not to be had here"),
    ):
        with pytest.raises(InputError, match=said):
            OnnxPredictor.from_file(folder / "model.onnx", **options)  # type: ignore[arg-type]
    assert OnnxPredictor.from_file(folder / "model.onnx", tta=("hflip", "vflip")).tta == ("hflip", "vflip")


@pytest.mark.parametrize(("is_loaded", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_device_is_the_one_that_the_session_runs_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_loaded: bool, device: str
) -> None:
    """A runtime for GPUs that cannot load CUDA makes a session on the CPU, and says nothing of it."""
    make = onnxruntime.InferenceSession

    class Session:
        def __init__(self, data: bytes, options: object, providers: list[str]) -> None:
            self.providers = [*(providers if is_loaded else ()), "CPUExecutionProvider"]
            self.real = make(data, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return self.providers

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert OnnxPredictor.from_file(folder / "model.onnx").device == device
    assert OnnxPredictor.from_file(folder / "model.onnx", device="cpu").device == "cpu"
    if is_loaded:
        assert OnnxPredictor.from_file(folder / "model.onnx", device="cuda").device == "cuda"
    else:
        with pytest.raises(InputError, match=r"^device 'cuda': .* cannot load CUDA .*here; .* choose auto or cpu$"):
            OnnxPredictor.from_file(folder / "model.onnx", device="cuda")


def test_a_decision_can_be_given(folder: Path, graph: OnnxPredictor) -> None:
    nothing = dataclasses.replace(DECISION, classes=(ClassDecision(max_area=0),) * 2)
    assert not any(prediction.class_ids for prediction in graph.predict(folder / "images", nothing))
    with pytest.raises(InputError, match="a decision for 1 classes, a network for 2"):
        graph.predict(folder / "images", Decision(classes=(ClassDecision(),)))
    with pytest.raises(InputError, match="pixels-per-pass: 0 is not at least 1"):
        OnnxPredictor.from_file(folder / "model.onnx", pixels_per_pass=0)
