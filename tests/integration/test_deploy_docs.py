"""docs/deploy.md: its program, which knows nothing of this package, predicts what `steel predict` does; its tables are
those of the graph; its service's command is understood."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from steel import load_predictor
from steel.checkpoint import Checkpoint, save_checkpoint
from steel.checkpoint_header import METADATA_KEY, make_metadata
from steel.cli import build_parser
from steel.cli import main as steel_main
from steel.config import NetworkConfig
from steel.gates import GATES
from steel.model.network import UnifiedModel
from tests.paths import ROOT

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PAGE = (ROOT / "docs" / "deploy.md").read_text()
PROBS = ["mask_probs", "label_probs"]
TENSORS = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
SIZES = [(64, 96), (9, 128), (31, 33), (130, 200), (1, 1), (63, 32), (40, 48)]
"""Around the 48x64 that some are resized to: smaller, larger, of other shapes, no whole strides."""
UNREAD = "not a readable image, or of 16 bits a pixel where the network was trained on 8"
NO_LIMITS = {"pixel_threshold": 128, "label_threshold": 0, "min_area": 0, "max_area": None}


def exported(folder: Path, channels: int) -> Any:
    """A graph with random weights, of two classes, that finds something in noise."""
    torch.manual_seed(channels)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=channels, decoder_channels=(8, 8))
    model = UnifiedModel(network)
    with torch.no_grad():
        model.segmentation_head[0].weight.mul_(20)
    tensors = {name: tensor.detach()[None] for name, tensor in model.state_dict().items()}
    statistics = ((0.4,) * channels, (0.2,) * channels)
    save_checkpoint(folder / "model.safetensors", Checkpoint(network, ("spot", "trace"), *statistics, tensors))
    line = ["export", str(folder / "model.safetensors"), "--onnx", str(folder / f"{channels}.onnx"), "--tta", "hflip"]
    assert steel_main(line) == 0
    return onnx.load(folder / f"{channels}.onnx")


class Plant(NamedTuple):
    """Graphs by their channels, and images as files: gray and colour, PNG and JPEG, and some of 16 bits."""

    graphs: dict[int, Any]
    images: Path
    deep: Path


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    root, rng = tmp_path_factory.mktemp("deploy"), np.random.default_rng(0)
    for name in ("images", "deep"):
        (root / name).mkdir()
    for number, size in enumerate(SIZES):
        image = rng.integers(0, 256, (*size, 3) if number % 2 else size, dtype=np.uint8)
        cv2.imwrite(str(root / "images" / f"{number}.{'jpg' if number > 3 else 'png'}"), image)
        cv2.imwrite(str(root / "images" / f"flat-{number}.jpg"), np.full(size, 40 * number, np.uint8))
        cv2.imwrite(str(root / "deep" / f"{number}.png"), rng.integers(0, 4096, size, dtype=np.uint16))
    return Plant({channels: exported(root, channels) for channels in (1, 3)}, root / "images", root / "deep")


def content_of(graph: Any) -> dict[str, Any]:
    (entry,) = [entry for entry in graph.metadata_props if entry.key == METADATA_KEY]
    return json.loads(entry.value)["content"]


def save_as(path: Path, graph: Any, **changes: Any) -> Path:
    """The graph with other words on it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    (entry,) = [entry for entry in copy.metadata_props if entry.key == METADATA_KEY]
    entry.value = make_metadata(content_of(graph) | changes)
    onnx.save(copy, path)
    return path


def decision(gate: str, *classes: dict[str, Any], binary_threshold: int = 0) -> dict[str, Any]:
    rules = [NO_LIMITS | rule for rule in classes]
    return {"gate": gate, "binary_threshold": binary_threshold, "classes": rules, "tta": ["hflip"]}


PROGRAM, OPENVINO = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def by_openvino() -> str:
    """The program with what the page says in place of `import onnxruntime` and of `load`."""
    imported, loading = OPENVINO.split("\n", 1)
    program, num_loads = re.subn(r"def load\(.*?\n\n\n", lambda _: loading.lstrip() + "\n\n", PROGRAM, flags=re.DOTALL)
    assert num_loads == 1 and "import onnxruntime\n" in program
    return program.replace("import onnxruntime\n", imported + "\n")


def run_program(
    tmp_path: Path, model: Path, images: list[Path], program: str = PROGRAM
) -> subprocess.CompletedProcess[str]:
    (tmp_path / "deploy.py").write_text(program)
    line = [sys.executable, "-I", str(tmp_path / "deploy.py"), str(model), *map(str, images)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "thresholds": (1, {"decision": decision("none", {"pixel_threshold": 120}, {"pixel_threshold": 140})}),
    "colour, resized, soft": (
        3,
        {"input_size": [48, 64], "decision": decision("soft", {"min_area": 900}, {"min_area": 2000, "max_area": 9000})},
    ),
    "binary": (1, {"decision": decision("binary", {}, {"max_area": 700}, binary_threshold="any")}),  # type: ignore[arg-type]
    "class": (3, {"decision": decision("class", {"label_threshold": "class"}, {"min_area": 30})}),
    "both, window": (
        1,
        {
            "depth": {"rule": "window", "low": 100, "high": 3000},
            "decision": decision("binary+class", {"label_threshold": "class"}, {}, binary_threshold="any"),  # type: ignore[arg-type]
        },
    ),
    "high byte": (1, {"depth": {"rule": "high-byte", "low": 0, "high": 65535}, "decision": decision("none", {}, {})}),
}
"""By what they are about: the graph's channels, and what is said of it. Thresholds `any` and `class` lie in the middle
of what the head says of these images."""


def settle(rules: dict[str, Any], middle: np.ndarray) -> dict[str, Any]:
    """A decision whose named thresholds are those in the middle."""
    classes = [
        rule | ({"label_threshold": int(middle[k])} if rule["label_threshold"] == "class" else {})
        for k, rule in enumerate(rules["classes"], 1)
    ]
    threshold = int(middle[0]) if rules["binary_threshold"] == "any" else rules["binary_threshold"]
    return rules | {"classes": classes, "binary_threshold": threshold}


@pytest.mark.parametrize("case", CASES)
def test_the_program_predicts_what_steel_predict_does(plant: Plant, tmp_path: Path, case: str) -> None:
    """To the last pixel: images go through the network one by one on both sides."""
    channels, changes = CASES[case]
    folder = shutil.copytree(plant.deep if "depth" in changes else plant.images, tmp_path / "images")
    undecided = save_as(tmp_path / "undecided.onnx", plant.graphs[channels], **(changes | {"decision": None}))
    found = load_predictor(undecided, device="cpu").predict(folder)
    middle = np.median([prediction.label_probs for prediction in found], axis=0)
    changes = changes | {"decision": settle(changes["decision"], middle)}
    model = save_as(tmp_path / "model.onnx", plant.graphs[channels], **changes)

    line = ["predict", str(model), str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert steel_main([*line, "--format", "labelmaps,jsonl", "--pixels-per-pass", "1"]) == 0
    told = [json.loads(text) for text in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    files = [folder / one["image"] for one in told]
    done = run_program(tmp_path, model, files)
    assert done.returncode == 0, done.stderr
    for text, one, file in zip(done.stdout.splitlines(), told, files, strict=True):
        written = Path(f"{file}.labels.png")
        label_map = cv2.imread(str(written), cv2.IMREAD_UNCHANGED)
        assert json.loads(text) == {"image": str(file), "verdict": one["verdict"], "classes": one["classes"]}
        (stored,) = (tmp_path / "out" / "labelmaps").glob(f"{file.stem}.png")
        np.testing.assert_array_equal(label_map, cv2.imread(str(stored), cv2.IMREAD_UNCHANGED))
    assert {one["verdict"] for one in told} >= {"defective"}
    assert changes["decision"]["gate"] == "none" or any(one["classes"] != ["spot", "trace"] for one in told)


@pytest.mark.parametrize("channels", [1, 3])
def test_openvino_gives_the_same_probabilities(plant: Plant, tmp_path: Path, channels: int) -> None:
    openvino = pytest.importorskip("openvino")
    model = save_as(tmp_path / "model.onnx", plant.graphs[channels])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for number, size in enumerate(SIZES):
        images = np.random.default_rng(number).integers(0, 256, (1 + number % 3, channels, *size), dtype=np.uint8)
        found, expected = compiled({"images": images}), session.run(PROBS, {"images": images})
        for name, theirs in zip(PROBS, expected, strict=True):
            assert found[name].dtype == np.uint8 and found[name].shape == theirs.shape
            assert np.abs(found[name].astype(int) - theirs).max() <= 1, (name, images.shape)


@pytest.mark.parametrize("case", ["thresholds", "colour, resized, soft", "high byte"])
def test_the_program_predicts_the_same_with_openvino(plant: Plant, tmp_path: Path, case: str) -> None:
    """But for pixels whose probability is at a threshold."""
    pytest.importorskip("openvino")
    channels, changes = CASES[case]
    model = save_as(tmp_path / "model.onnx", plant.graphs[channels], **changes)
    files = sorted((plant.deep if "depth" in changes else plant.images).iterdir())
    told, maps = [], []
    for number, program in enumerate((PROGRAM, by_openvino())):
        images = [Path(shutil.copy(file, tmp_path / f"{number}-{file.name}")) for file in files]
        done = run_program(tmp_path, model, images, program)
        assert done.returncode == 0, done.stderr
        told.append([json.loads(line)["classes"] for line in done.stdout.splitlines()])
        maps.append([cv2.imread(f"{image}.labels.png", cv2.IMREAD_UNCHANGED) for image in images])
    assert told[0] == told[1] and any(told[0])
    pixels = [np.concatenate([one.ravel() for one in side]) for side in maps]
    assert (pixels[0] != pixels[1]).mean() < 0.001


def test_what_the_program_does_not_do_is_said_in_one_line(plant: Plant, tmp_path: Path) -> None:
    graph, rules = plant.graphs[1], decision("none", {}, {})
    tiling = content_of(graph)["tiling"] | {"budget": 64 * 96, "tile": 32, "overlap": 8}
    model = save_as(tmp_path / "model.onnx", graph, decision=rules, tiling=tiling)
    (tmp_path / "text.png").write_text("no image")
    for file, said in (
        (plant.images / "3.png", "more pixels than the network was evaluated on at once; use tiles or `steel predict`"),
        (plant.deep / "0.png", UNREAD),
        (tmp_path / "text.png", UNREAD),
    ):
        done = run_program(tmp_path, model, [file])
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"{file}: {said}")


def test_the_program_is_short() -> None:
    assert PROGRAM.count("\n") <= 60 and max(map(len, PROGRAM.splitlines())) <= 120


def test_the_tables_are_those_of_the_graph(plant: Plant) -> None:
    model = plant.graphs[3]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sides = {"input": session.get_inputs(), "output": session.get_outputs()}
    put = {(side, one.name, one.type) for side, tensors in sides.items() for one in tensors}
    rows = re.findall(r"^\| (input|output) \| `(\w+)` \| (\w+) \| \(", PAGE, re.MULTILINE)
    assert put == {(kind, name, TENSORS[type_]) for kind, name, type_ in rows}
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18] and "Operator set 18" in PAGE
    rows = re.findall(
        r"^\| (`.*?`) \| ", PAGE[PAGE.index("| in `content`") : PAGE.index("## The decision")], re.MULTILINE
    )
    content = content_of(model)
    for path in (name for row in rows for name in re.findall(r"`([\w.]+)`", row)):
        value = content
        for part in path.split("."):
            value = value[part]
    named = set(re.findall(r"`([a-z+]+)`", PAGE[PAGE.index("## The decision") : PAGE.index("## All of it")]))
    assert GATES.keys() - {"none"} <= named


def test_the_command_of_the_service_is_understood() -> None:
    (line,) = re.findall(r"^ExecStart=\S+/steel (.*)$", PAGE, re.MULTILINE)
    arguments = build_parser().parse_args(line.split())
    assert (arguments.port, arguments.host) == (8000, "127.0.0.1")
    assert f"127.0.0.1:{arguments.port}/;" in PAGE
