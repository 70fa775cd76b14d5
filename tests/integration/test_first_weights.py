"""A run from published weights: its inputs follow them, its checkpoint says where they are from, and it resumes
without them."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from steel.checkpoint import load_checkpoint, read_header, stack_members
from steel.errors import InputError
from steel.pretrained import sources
from steel.reports.describe import describe_checkpoint, describe_first_weights
from steel.shards.format import Manifest
from tests.numerics.quick import quicken
from train.engine.run_folder import RunFolder
from train.fit import main

OPTIONS = (
    "--preset smoke --phases.0.epochs 0.1 --phases.1.epochs 0.1 --phases.0.lr 1e-12 --phases.1.lr 1e-12 "
    "--tracking.tracker none --runtime.workers 0 --runtime.precision no --validation.tta --optim.ema-decay 0 "
    "--model.encoder tu-test_resnet --model.decoder-channels 8 8"
).split()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(9)
    tensors = timm.create_model("test_resnet").state_dict()
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors", {"license": "dinov3-license"})
    return tmp_path / "weights.safetensors"


def fit(shards: Path, out: Path, *options: str) -> None:
    assert main([*OPTIONS, *options, "--data", str(shards), "--out", str(out)]) == 0


def test_a_run_from_a_file(
    tiny_shards: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--model.weights", str(weights), "--model.mean", ".5", ".4", ".3", "--model.std", ".2", ".2", ".2"]
    fit(tiny_shards, out, *options)
    made = load_checkpoint(out / "model.safetensors")
    assert made.mean == pytest.approx((0.4,)) and made.std == pytest.approx((0.2,))
    published = safetensors.torch.load_file(weights)
    # As wide as the data, and unchanged by so small a rate.
    first = made.tensors["encoder.model.conv1.0.weight"][0]
    torch.testing.assert_close(first, published["conv1.0.weight"].sum(1, keepdim=True), atol=1e-6, rtol=0)
    later = made.tensors["encoder.model.layer1.0.conv1.weight"][0]
    torch.testing.assert_close(later, published["layer1.0.conv1.weight"], atol=1e-6, rtol=0)

    told = made.provenance["encoder_weights"]
    assert (told["architecture"], told["source"]) == ("tu-test_resnet", str(weights))
    assert told["fitted"] == told["tensors"] and len(told["sha256"]) == 64
    licence = "DINOv3 License (Meta's own terms, not Apache-2.0)"
    assert licence in (out / "model_card.md").read_text()
    (line,) = [x for x in describe_checkpoint(read_header(out / "model.safetensors")) if x.startswith("first weights")]
    assert str(weights) in line and licence in line
    assert describe_first_weights(stack_members([made, made]).provenance) == describe_first_weights(made.provenance)

    # The state is enough to go on from, wherever the file was moved to, and to ship with the same inputs.
    weights.unlink()
    (out / "model.safetensors").unlink()
    RunFolder(out).end("interrupted")
    capsys.readouterr()
    fit(tiny_shards, out, *options[:1], "moved.safetensors", *options[2:])
    assert f"began with {weights}; --model.weights is not read again" in "".join(capsys.readouterr())
    again = load_checkpoint(out / "model.safetensors")
    assert (again.mean, again.provenance["encoder_weights"]) == (made.mean, told)

    # Whoever starts from it has its inputs, and its licence, which is said again.
    capsys.readouterr()
    fit(tiny_shards, tmp_path / "later", "--model.weights", "none", "--init-from", str(out / "model.safetensors"))
    heir = load_checkpoint(tmp_path / "later" / "model.safetensors")
    assert (heir.mean, heir.std) == (made.mean, made.std)
    assert heir.provenance["encoder_weights"]["licence"] == licence
    assert f"encoder weights: licence {licence}: not this project's" in "".join(capsys.readouterr())
    RunFolder(tmp_path / "later").end("interrupted")
    fit(tiny_shards, tmp_path / "later", "--model.weights", "none", "--init-from", "elsewhere.safetensors")
    told = f"the encoder began with {out}/model.safetensors; --init-from is not read again"
    assert told in "".join(capsys.readouterr())


def test_no_secret_of_a_url_is_told(
    tiny_shards: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = weights.read_bytes()

    def fetch(url: str) -> bytes:
        assert "user:5ecret@host" in url and "sig=5ecret" in url
        return data if "/weights.safetensors?" in url else b"no settings"

    monkeypatch.setattr(sources, "fetch_url", fetch)
    url = "https://user:5ecret@host/weights.safetensors?sig=5ecret"
    fit(tiny_shards, tmp_path / "run", "--tracking.tracker", "tensorboard", "--model.weights", url)
    written = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert not [path for path, content in written.items() if b"5ecret" in content]
    assert b"https://host/weights.safetensors" in written[tmp_path / "run" / "model_card.md"]
    assert "5ecret" not in "".join(capsys.readouterr())


def test_random_weights_take_the_inputs_of_the_data(tiny_shards: Path, tmp_path: Path) -> None:
    fit(tiny_shards, tmp_path, "--model.weights", "none")
    made, manifest = load_checkpoint(tmp_path / "model.safetensors"), Manifest.load(str(tiny_shards))
    assert (made.mean, made.std) == (manifest.mean, manifest.std)
    assert made.provenance["encoder_weights"] is None and "weights: random" in (tmp_path / "model_card.md").read_text()


def test_gray_images_may_be_given_as_three_channels(tiny_shards: Path, weights: Path, tmp_path: Path) -> None:
    fit(tiny_shards, tmp_path / "run", "--model.weights", str(weights), "--model.in-channels", "3")
    made = load_checkpoint(tmp_path / "run" / "model.safetensors")
    assert made.tensors["encoder.model.conv1.0.weight"].shape[2] == len(made.mean) == 3
    from train.evaluate import main as evaluate

    line = ["--checkpoint", tmp_path / "run" / "model.safetensors", "--data", tiny_shards, "--folds", "1"]
    assert evaluate([str(part) for part in (*line, "--out", tmp_path / "test", "--workers", "0")]) == 0
    scores = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert scores["images"] == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (
            ["--model.weights", "none", "--model.mean", "1", "1", "1", "--model.std", "1", "1", "1"],
            "model.mean: 3 values",
        ),
    ],
)
def test_what_cannot_be_ends_before_the_first_step(
    options: list[str], message: str, tiny_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        fit(tiny_shards, tmp_path, *options)
    assert RunFolder(tmp_path).status()["state"] == "failed"  # type: ignore[index]


@pytest.mark.parametrize("are_mended", [True, False])
def test_a_run_that_bad_weights_ended_begins_anew_by_the_same_command(
    are_mended: bool, tiny_shards: Path, weights: Path, tmp_path: Path
) -> None:
    """With the mended file, or with others: a run that has saved nothing is bound to nothing."""
    out, good = tmp_path / "run", weights.read_bytes()
    weights.write_bytes(b"no weights")
    with pytest.raises(
        InputError, match=f"^model.weights {re.escape(str(weights))}: neither a safetensors nor a torch"
    ):
        fit(tiny_shards, out, "--model.weights", str(weights))
    failed = RunFolder(out).status()
    assert failed is not None and failed["state"] == "failed" and str(weights) in failed["reason"]
    assert {path.name for path in out.iterdir()} == {".lock", "config.json", "status.json"}

    if are_mended:
        weights.write_bytes(good)
    fit(tiny_shards, out, "--model.weights", str(weights) if are_mended else "none")
    done = RunFolder(out).status()
    assert done is not None and (done["state"], done["reason"], done["attempt"]) == ("finished", "", 2)
    made = load_checkpoint(out / "model.safetensors").provenance["encoder_weights"]
    assert made["source"] == str(weights) if are_mended else made is None


def test_a_state_without_its_first_weights_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    fit(tiny_shards, tmp_path, "--model.weights", "none")
    RunFolder(tmp_path).end("interrupted")
    (tmp_path / "first_weights.json").unlink()
    with pytest.raises(InputError, match=r"holds states, but no first_weights\.json"):
        fit(tiny_shards, tmp_path, "--model.weights", "none")
