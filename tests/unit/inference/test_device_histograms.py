"""Histograms made on the device are those that the host makes, and the host waits for none of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from steel.config import NetworkConfig
from steel.distributed.runtime import start
from steel.inference.device_histograms import counting_targets, histograms_on_device
from steel.inference.predictor import Predictor
from steel.model.network import UnifiedModel, scale_and_shift
from steel.shards.reader import ShardReader
from tests.fake_gpu import GPU, fake_gpu
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.engine import run_inference
from train.engine.run_inference import collect_statistics


@pytest.mark.parametrize(
    ("num_classes", "kind", "ignore_bit"), [(3, np.uint8, 7), (10, np.uint16, 15), (8, np.uint8, None)]
)
def test_against_counting_each_image(num_classes: int, kind: type, ignore_bit: int | None) -> None:
    """By numpy; three images of different sizes in four places of a batch."""
    rng = np.random.default_rng(0)
    probs = rng.integers(0, 256, (4, num_classes, 13, 20), np.uint8)
    probs[:, :, 4:9] = 3
    bitmasks = [rng.integers(0, 1 << num_classes, size).astype(kind) for size in ((13, 20), (11, 20), (5, 7))]
    if ignore_bit is not None:
        bitmasks[1][2:4] |= kind(1 << ignore_bit)
    targets = counting_targets(bitmasks, (4, 13, 20), num_classes, ignore_bit)
    found = histograms_on_device(torch.from_numpy(probs), targets)
    assert (found.dtype, found.shape) == (torch.int32, (4, num_classes, 2, 256))
    for image, bitmask in enumerate(bitmasks):
        height, width = bitmask.shape
        valid = np.ones(bitmask.shape, bool) if ignore_bit is None else bitmask >> ignore_bit & 1 == 0
        for k in range(num_classes):
            for inside in range(2):
                chosen = probs[image, k, :height, :width][valid & (bitmask >> k & 1 == inside)]
                assert np.array_equal(found[image, k, inside], np.bincount(chosen, minlength=256))
    assert found[3].sum() == 0


@pytest.fixture(scope="module")
def network() -> UnifiedModel:
    torch.manual_seed(0)
    return UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", num_classes=3, in_channels=1, decoder_channels=(8, 8)))


def test_an_evaluation_is_the_same_either_way(
    network: UnifiedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images of several sizes, one of them stored at half its size, whose maps the host enlarges."""
    sizes = [(32, 64), (30, 60), (16, 33)]
    bitmasks = [defect_mask(n, *sizes[n % 3]) for n in range(9)] + [defect_mask(10, 64, 128)]
    root = make_shards(tmp_path / "shards", [steel_image(n, *sizes[n % 3]) for n in range(10)], bitmasks)
    reader, runtime = ShardReader(root), start("no", cpu=True)
    predictor = Predictor([network], mean=(0.4,), std=(0.2,), device="cpu", pixels_per_pass=2 * 32 * 64)
    counted = []

    def spy(mask_probs: Tensor, targets: Tensor) -> Tensor:
        counted.append(len(mask_probs))
        return histograms_on_device(mask_probs, targets)

    monkeypatch.setattr(run_inference, "histograms_on_device", spy)
    found = []
    for there in (False, True):
        monkeypatch.setattr(run_inference, "_counts_on_device", lambda _, there=there: there)
        found.append(collect_statistics(predictor, reader, np.arange(10), runtime, decision=None, workers=0))
        assert bool(counted) == there
    host, device = found
    assert np.array_equal(host.histograms, device.histograms)
    assert host.histograms.dtype == device.histograms.dtype
    assert np.array_equal(host.label_probs, device.label_probs)
    assert np.array_equal(host.rows, device.rows)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_gpu_has_its_next_batch_before_the_host_waits_for_the_last(network: UnifiedModel) -> None:
    """With three flipped views. A record follows each of the two results of a batch."""
    scale_and_shift.cache_clear()
    order = []
    predictor = Predictor([network], mean=(0.4,), std=(0.2,), tta=("hflip", "vflip", "hvflip"), device="cpu")
    with fake_gpu() as noted:
        predictor.device = GPU
        predictor.models[0].to(GPU)
        scale_and_shift((0.4,), (0.2,), GPU)
        noted.waits.clear()

        def batches() -> Iterator[Tensor]:
            for number in range(3):
                noted.events.append(f"batch {number}")
                yield torch.zeros(2, 1, 32, 64, dtype=torch.uint8)

        def reduce(mask_probs: Tensor, label_probs: Tensor) -> tuple[Tensor, Tensor]:
            targets = torch.zeros(2, 32, 64, dtype=torch.uint8).pin_memory().to(GPU, non_blocking=True)
            return histograms_on_device(mask_probs, targets), label_probs

        for found, _ in predictor.stream(batches(), reduce):
            assert found.shape == (2, 3, 2, 256)
            order.append(found.device.type)
        assert noted.waits == []
    scale_and_shift.cache_clear()
    assert order == ["cpu"] * 3
    assert noted.events == [
        *("batch 0", "record 0", "record 1"),
        *("batch 1", "record 2", "record 3", "wait for 0", "wait for 1"),
        *("batch 2", "record 4", "record 5", "wait for 2", "wait for 3"),
        *("wait for 4", "wait for 5"),
    ]
