"""An evaluation on a GPU: what it counts there, and the maps that are looked at, are those of an evaluation whose maps
travel to a host that counts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steel.config import NetworkConfig
from steel.decision import ClassDecision, Decision
from steel.inference.device_counts import histograms_on_device
from steel.inference.predictor import Predictor
from steel.loading.workers import PREFETCH
from steel.model.network import UnifiedModel
from steel.reports.gallery import GalleryKeeper
from steel.shards.reader import ShardReader
from tests.gpu.places import PLACES, job_on
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.engine import run_inference
from train.engine.run_inference import collect_statistics


@pytest.mark.parametrize("place", PLACES)
def test_counting_there_finds_what_counting_here_does(
    place: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of small batches, twice as many as the loader has buffers, which its processes fill again."""
    sizes = [(32, 64), (30, 60), (16, 33)] * 40
    bitmasks = [defect_mask(n, *size) for n, size in enumerate(sizes)]
    root = make_shards(tmp_path / "shards", [steel_image(n, *size) for n, size in enumerate(sizes)], bitmasks)
    reader = ShardReader(root)
    torch.manual_seed(0)
    network = UnifiedModel(
        NetworkConfig("Unet", "tu-test_resnet", num_classes=3, in_channels=1, decoder_channels=(8, 8))
    )
    options = {"tta": ("hflip",), "pixels_per_pass": 4 * 32 * 64, "device": place, "precision": "no"}
    predictor = Predictor([network], mean=(0.4,), std=(0.2,), **options)
    decision = Decision((ClassDecision(120), ClassDecision(128, min_area=40), ClassDecision(140)), "soft")
    counted_there, batches_counted, found, keepers = [], [], [], []

    def count(mask_probs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        counted_there.append((mask_probs.device.type, targets.device.type))
        return histograms_on_device(mask_probs, targets)

    monkeypatch.setattr(run_inference, "histograms_on_device", count)
    rows = np.arange(len(sizes))
    with job_on(place) as runtime:
        for there in (True, False):
            monkeypatch.setattr(run_inference, "_counts_on_device", lambda _, there=there: there)
            keepers.append(GalleryKeeper(decision, wanted=range(0, 120, 7)))
            how = {"decision": decision, "workers": 2 if there else 0, "keeper": keepers[-1]}
            found.append(collect_statistics(predictor, reader, rows, runtime, **how))
            batches_counted.append(len(counted_there))
    assert set(counted_there) == {(place.type, place.type)}
    assert batches_counted[0] == batches_counted[1]  # none of the second time, which the host counts
    assert batches_counted[0] > 2 * PREFETCH + 3  # buffers of two processes
    device, host = found
    for name in ("rows", "histograms", "label_probs", "background", "confusion"):
        assert np.array_equal(getattr(device, name), getattr(host, name)), name
    pixels = [height * width for height, width in sizes]
    assert np.array_equal(device.histograms.sum(axis=(2, 3)), np.repeat(pixels, 3).reshape(-1, 3)[device.rows])
    assert device.confusion is not None and device.confusion.any()
    assert keepers[0].ranking() == keepers[1].ranking()
    assert sorted(keepers[0].regions) == sorted(keepers[1].regions)
    ours, theirs = (keeper.layers(range(120)) for keeper in keepers)
    assert ours.keys() == theirs.keys() >= set(range(0, 120, 7))
    for row, layers in ours.items():
        assert np.array_equal(layers.predicted, theirs[row].predicted)
        assert np.array_equal(layers.probability, theirs[row].probability)
        assert layers.marks == theirs[row].marks
