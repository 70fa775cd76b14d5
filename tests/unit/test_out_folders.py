"""Every program, told to write below a file: one line before any work, and nothing is made."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_prep.__main__ import main as shard
from data_prep.pseudo_labels.__main__ import main as pseudo_labels
from steel.checkpoint import Checkpoint, save_checkpoint
from steel.cli import main as steel
from steel.config import NetworkConfig
from steel.errors import run_program
from steel.model.network import UnifiedModel
from tests.evaluated_images import FIRST, write_report
from train import crossval, evaluate, fit
from train.second_round.__main__ import main as second_round

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the classes of `tiny_shards`."""
    torch.manual_seed(0)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=4, in_channels=1, decoder_channels=(8, 8))
    tensors = {name: tensor[None] for name, tensor in UnifiedModel(network).state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(path, Checkpoint(network, tuple(f"class {k}" for k in range(1, 5)), (0.4,), (0.2,), tensors))
    return path


Program = Callable[[Path, Path, Path, str], int]
"""Of the images with their CSV, the shards, a checkpoint and the place to write to: the exit code."""


PROGRAMS: dict[str, Program] = {
    "data_prep": lambda data, shards, model, out: shard(
        ["--images", str(data / "train_images"), "--labels", str(data / "train.csv"), "--out", out]
    ),
    "synth": lambda data, shards, model, out: steel(["synth", out, "--num-train", "1"]),
    "explore": lambda data, shards, model, out: steel(["explore", str(shards), "--out", out]),
    "predict": lambda data, shards, model, out: steel(
        ["predict", str(model), str(data / "test_images"), "--out", out, "--format", "kaggle,overlays"]
    ),
    "export": lambda data, shards, model, out: steel(["export", str(model), "--onnx", out]),
    "ensemble": lambda data, shards, model, out: steel(["ensemble", str(model), str(model), "--out", out]),
    "train.fit": lambda data, shards, model, out: run_program(
        lambda: fit.main(["--preset", "smoke", "--data", str(shards), "--out", out])
    ),
    "train.crossval": lambda data, shards, model, out: run_program(
        lambda: crossval.main(["--preset", "smoke", "--data", str(shards), "--out", out])
    ),
    "train.evaluate": lambda data, shards, model, out: run_program(
        lambda: evaluate.main(["--checkpoint", str(model), "--data", str(shards), "--out", out])
    ),
    "data_prep.pseudo_labels": lambda data, shards, model, out: run_program(
        lambda: pseudo_labels(
            [
                *("--checkpoint", str(model), "--data", str(shards)),
                *("--unlabelled", str(data / "test_images"), "--out", out),
            ]
        )
    ),
    "train.second_round": lambda data, shards, model, out: run_program(
        lambda: second_round(
            [
                *("--checkpoint", str(model), "--data", str(shards), "--folds.test", "1"),
                *("--unlabelled", str(data / "test_images"), "--out", out),
            ]
        )
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_place_below_a_file_is_refused(
    name: str,
    tiny_data: Path,
    tiny_shards: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("precious")
    before = sorted(tiny_data.parent.rglob("*"))
    out = str(tmp_path / "file" / "deeper" / "out")
    assert PROGRAMS[name](tiny_data, tiny_shards, checkpoint, out) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(tmp_path / "file") in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"
    assert sorted(tiny_data.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["synth", "explore", "compare", "train.fit", "train.evaluate", "train.second_round"])
def test_a_url_is_refused_where_a_folder_or_file_of_this_machine_is_written(
    name: str,
    tiny_data: Path,
    tiny_shards: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    out = "memory://out/page.html"
    try:
        if name == "compare":
            code: object = steel(["compare", "one", "two", "--out", out])
        else:
            code = PROGRAMS[name](tiny_data, tiny_shards, checkpoint, out)
    except SystemExit as ended:  # of what parses options
        code = ended.code
    assert code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and "memory://out/page.html" in error and "this machine" in error
    assert not any(tmp_path.iterdir())


def test_a_local_url_is_a_path(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reports = [write_report(tmp_path / name, FIRST) for name in ("one", "two")]
    assert steel(["compare", *reports, "--out", f"file://{tmp_path}/pages/compare.html"]) == 0
    assert steel(["explore", str(tiny_shards), "--out", f"file://{tmp_path}/explored"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explored", "one", "pages", "two"]
    assert (tmp_path / "pages/compare.json").is_file() and (tmp_path / "explored/index.html").is_file()
