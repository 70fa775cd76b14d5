"""Evaluation launched as a user does: every image once, and the same integers on one rank and on two."""

import json
from pathlib import Path

import pytest

from steel.checkpoint import Checkpoint, save_checkpoint
from steel.config import NetworkConfig
from steel.distributed.runtime import seed_everything
from steel.model.network import UnifiedModel
from steel.shards.format import Manifest
from tests.distributed.launching import run


@pytest.fixture
def checkpoint(tiny_shards: Path, tmp_path: Path) -> Path:
    """An untrained network: what it answers does not matter here."""
    seed_everything(3)
    manifest = Manifest.load(tiny_shards)
    network = NetworkConfig("Unet", "resnet18", manifest.num_classes, manifest.channels, decoder_channels=(16, 8, 8))
    tensors = {name: tensor.unsqueeze(0) for name, tensor in UnifiedModel(network).state_dict().items()}
    path = tmp_path / "model.safetensors"
    folds = {"train": [2], "tuning": [0], "test": [1]}
    save_checkpoint(path, Checkpoint(network, manifest.class_names, manifest.mean, manifest.std, tensors, folds=folds))
    return path


def test_two_ranks_count_what_one_counts(checkpoint: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """27 images of 64x160 in batches of 4: neither the images nor the batches divide by two."""
    options = ["--checkpoint", checkpoint, "--data", tiny_shards, "--folds", "all"]
    more = ["--pixels-per-pass", 4 * 64 * 160, "--workers", "1", "--tta", "hflip", "--precision", "no"]
    found, pages, pictures = [], [], []
    for processes in (1, 2):
        out = tmp_path / f"on-{processes}"
        # As many threads as a user would have who sets nothing: their number must not matter either.
        run(processes, "train.evaluate", *options, *more, "--out", out, OMP_NUM_THREADS=str(3 - processes))
        found.append(json.loads((out / "metrics.json").read_text()))
        found[-1]["speed"].clear()  # what is measured differs from run to run
        pages.append({name: (out / name).read_text() for name in ("per_image.csv", "label_doubts.csv")})
        pictures.append(sorted(path.read_bytes() for path in (out / "overlays").iterdir()))
        assert "<h2>Verdict</h2>" in (out / "report.html").read_text()
    assert found[0]["images"] == 27
    told = found[0]["provenance"]
    assert (told["checkpoint"], told["data"]) == (str(checkpoint), str(tiny_shards))
    assert found[0] == found[1]
    assert pages[0] == pages[1]
    assert pictures[0] and pictures[0] == pictures[1]
