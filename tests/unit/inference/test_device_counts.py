"""What is counted on the device is what the host counts, and the host waits for none of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steel.config import NetworkConfig, TilingConfig
from steel.decision import ClassDecision, Decision, apply_decision, default_decision, kept
from steel.distributed.runtime import start
from steel.inference.device_counts import answers_on_device, histograms_on_device
from steel.inference.predictor import Predictor, Reduce
from steel.inference.tiles import Blender
from steel.loading.crop import target_dtype
from steel.loading.eval_loader import EvalBatch, fill_targets
from steel.metrics.confusion import MOST_ANSWERED, answers_confusion, pixel_confusion
from steel.metrics.counts import valid_mask
from steel.metrics.statistics import ImageStatistics
from steel.model.network import UnifiedModel, scale_and_shift
from steel.shards.reader import ShardReader
from tests.fake_gpu import GPU, fake_gpu
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.engine import run_inference
from train.engine.run_inference import collect_statistics


def targets_of(bitmasks: list[np.ndarray], num_classes: int, ignore_bit: int | None) -> Tensor:
    """Of a batch of four images of 13x20, in memory that is not clean."""
    targets = np.full((4, 13, 20), 77, target_dtype(num_classes))
    fill_targets(targets, bitmasks, num_classes, ignore_bit)
    return torch.from_numpy(targets)


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
    targets = targets_of(bitmasks, num_classes, ignore_bit)
    found = histograms_on_device(torch.from_numpy(probs), targets)
    assert (found.dtype, found.shape) == (torch.int32, (4, num_classes, 2, 256))
    assert found[0].nbytes == num_classes * 2048  # that travel of each image: 8 KiB with four classes
    for image, bitmask in enumerate(bitmasks):
        height, width = bitmask.shape
        valid = np.ones(bitmask.shape, bool) if ignore_bit is None else bitmask >> ignore_bit & 1 == 0
        for k in range(num_classes):
            for inside in range(2):
                chosen = probs[image, k, :height, :width][valid & (bitmask >> k & 1 == inside)]
                assert np.array_equal(found[image, k, inside], np.bincount(chosen, minlength=256))
    assert found[3].sum() == 0


@pytest.mark.parametrize(
    ("num_classes", "kind", "ignore_bit"), [(1, np.uint8, None), (4, np.uint8, 7), (MOST_ANSWERED, np.uint16, 15)]
)
@pytest.mark.parametrize("gate", ["none", "class", "soft"])
def test_answers_against_applying_the_decision(num_classes: int, kind: type, ignore_bit: int | None, gate: str) -> None:
    """To the pixels of three images, whose classes overlap in truth and prediction, and some are dropped."""
    rng = np.random.default_rng(1)
    probs = rng.integers(0, 256, (4, num_classes, 13, 20), np.uint8)
    probs[0, :, 5:] = 0
    bitmasks = [rng.integers(0, 1 << num_classes, size).astype(kind) for size in ((13, 20), (11, 20), (5, 7))]
    bitmasks[2][:] = 0
    if ignore_bit is not None:
        bitmasks[1][2:4] |= kind(1 << ignore_bit)
    settings = zip(rng.integers(100, 200, num_classes).tolist(), rng.integers(0, 90, num_classes).tolist(), strict=True)
    decision = Decision(tuple(ClassDecision(threshold, 128, area) for threshold, area in settings), gate)
    label_probs = rng.integers(0, 256, (3, 1 + num_classes), np.uint8)
    targets = targets_of(bitmasks, num_classes, ignore_bit)
    found = answers_on_device(torch.from_numpy(probs), targets, decision.pixel_thresholds.tolist())
    assert (found.dtype, found.shape) == (torch.int32, (4, num_classes + 2, 1 << num_classes))
    dropped = 0
    for image, bitmask in enumerate(bitmasks):
        part, valid = probs[image, :, : bitmask.shape[0], : bitmask.shape[1]], valid_mask(bitmask, ignore_bit)
        masks = apply_decision(decision, part, label_probs[image], valid)
        reached = part >= decision.pixel_thresholds[:, None, None]
        areas = (reached if valid is None else reached & valid).sum(axis=(1, 2))
        keep = kept(decision, areas, label_probs[image])
        dropped += np.count_nonzero(~keep)
        expected = pixel_confusion(masks, bitmask, ignore_bit)
        told = answers_confusion(found[image].numpy(), keep)
        assert np.array_equal(told.confusion, expected.confusion)
        assert np.array_equal(told.background, expected.background)
    assert dropped > 0 or (num_classes, gate) == (1, "none")
    assert found[3].sum() == 0


@pytest.fixture(scope="module")
def network() -> UnifiedModel:
    torch.manual_seed(0)
    return UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", num_classes=3, in_channels=1, decoder_channels=(8, 8)))


@pytest.mark.parametrize(("decided", "most_answered"), [(False, MOST_ANSWERED), (True, MOST_ANSWERED), (True, 2)])
def test_an_evaluation_is_the_same_either_way(
    network: UnifiedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decided: bool, most_answered: int
) -> None:
    """Of images of several sizes, one of them stored at half its size, whose maps the host enlarges, and one seen in
    tiles: those maps travel, and no others, unless there are more classes than the device tells apart."""
    sizes = [(32, 64), (30, 60), (16, 33)]
    sizes = [*sizes, *sizes, *sizes, (32, 64), (64, 128)]
    bitmasks = [defect_mask(n, *((64, 128) if n == 9 else size)) for n, size in enumerate(sizes)]
    root = make_shards(tmp_path / "shards", [steel_image(n, *size) for n, size in enumerate(sizes)], bitmasks)
    reader, runtime = ShardReader(root), start("no", cpu=True)
    tiling = TilingConfig(tile=64, overlap=16, budget=64 * 64)
    predictor = Predictor([network], mean=(0.4,), std=(0.2,), device="cpu", pixels_per_pass=2 * 32 * 64, tiling=tiling)
    decision = default_decision(3) if decided else None
    counted: list[int] = []
    travelled: list[bool] = []
    begin = predictor.stream

    def stream(batches: Iterator[Tensor], reduce: Reduce) -> Iterator[tuple[Tensor, ...]]:
        for found in begin(batches, reduce):
            travelled.append(any(each.ndim == 4 and each.dtype == torch.uint8 for each in found))
            yield found

    def spy(mask_probs: Tensor, targets: Tensor) -> Tensor:
        counted.append(len(mask_probs))
        return histograms_on_device(mask_probs, targets)

    monkeypatch.setattr(run_inference, "histograms_on_device", spy)
    monkeypatch.setattr(predictor, "stream", stream)
    monkeypatch.setattr(run_inference, "MOST_ANSWERED", most_answered)
    found = []
    for there in (False, True):
        counts = there and most_answered > 2
        travelled.clear()
        monkeypatch.setattr(run_inference, "_counts_on_device", lambda _, there=there: there)
        found.append(collect_statistics(predictor, reader, np.arange(11), runtime, decision=decision, workers=0))
        assert len(counted) == (4 if counts else 0)  # of six batches; two hold the enlarged and the tiled image
        assert sum(travelled) == (2 if counts else 6)
    host, device = found
    assert np.array_equal(host.histograms, device.histograms)
    assert host.histograms.dtype == device.histograms.dtype
    assert np.array_equal(host.label_probs, device.label_probs)
    assert np.array_equal(host.rows, device.rows)
    assert (host.confusion is None) == (not decided)
    if decided:
        assert np.array_equal(host.confusion, device.confusion)
        assert np.array_equal(host.background, device.background)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_gpu_has_its_next_batch_before_the_host_waits_for_the_last(network: UnifiedModel) -> None:
    """With three flipped views. A record follows each of the three results of a batch, which are copied beside the next
    batch's work, and hold their memory until then."""
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

        for found, _, _ in predictor.stream(batches(), reduce):
            assert found.shape == (2, 3, 2, 256)
            order.append(found.device.type)
        assert noted.waits == []
    scale_and_shift.cache_clear()
    assert order == ["cpu"] * 3
    before = "side stream waits for stream"
    behind = [f"side stream uses a torch.{dtype}" for dtype in ("int32", "uint8", "bool")]
    assert noted.events == [
        *("batch 0", before, "record 0", "record 1", "record 2", *behind),
        *("batch 1", before, "record 3", "record 4", "record 5", *behind),
        *("batch 2", before, "record 6", "record 7", "record 8", *behind, "wait for 0", "wait for 1", "wait for 2"),
        *("wait for 3", "wait for 4", "wait for 5", "wait for 6", "wait for 7", "wait for 8"),
    ]
    assert [copy for copy in noted.copies if copy.startswith("cuda")] == ["cuda to cpu on side stream"] * 9


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_maps_travel_from_a_gpu_when_somebody_looks_at_them(network: UnifiedModel) -> None:
    """Three batches of two images: of each, label probabilities, two kinds of counts and whether these say anything are
    copied; besides, the maps of the one image that is looked at."""
    scale_and_shift.cache_clear()
    predictor = Predictor([network], mean=(0.4,), std=(0.2,), device="cpu")
    looks: dict[int, Callable[[], np.ndarray]] = {}

    class Keeper:
        def offer(self, image: ImageStatistics, bitmask: np.ndarray, get_mask_probs: Callable[[], np.ndarray]) -> None:
            looks[image.row] = get_mask_probs

    sizes, rows = torch.tensor([[32, 64], [30, 61]]), [torch.arange(first, first + 2) for first in (0, 2, 4)]
    masks = [np.zeros(tuple(size), np.uint8) for size in sizes.tolist()]
    with fake_gpu() as noted:
        predictor.device = GPU
        predictor.models[0].to(GPU)
        scale_and_shift((0.4,), (0.2,), GPU)
        noted.waits.clear()
        noted.copies.clear()

        pinned = torch.zeros(2, 1, 32, 64, dtype=torch.uint8).pin_memory()
        targets = torch.zeros(2, 32, 64, dtype=torch.uint8).pin_memory()
        batches = (EvalBatch(pinned, two, masks, sizes, 0, targets) for two in rows)
        found = run_inference._image_statistics(predictor, batches, default_decision(3), None, Keeper(), name_of=str)  # type: ignore[arg-type]
        assert [image.row for image in found] == list(range(6))
        usual = noted.copies.copy()
        assert looks[3]().shape == (3, 30, 61)
    scale_and_shift.cache_clear()
    assert [copy for copy in usual if copy.startswith("cuda")] == ["cuda to cpu on side stream"] * 3 * 4
    assert noted.copies[len(usual) :] == ["cuda to cpu on side stream"]
    assert noted.waited_on[-1] == GPU  # and not on the first one, as a thread of its own would
    assert noted.waits == []


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_gpu_has_its_next_encoders_before_the_host_asks_what_the_last_ones_say(
    network: UnifiedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four batches every second one is cleared; the network runs where a batch is launched, each a record."""
    scale_and_shift.cache_clear()
    asked: list[bool] = []
    predictor = Predictor([network], mean=(0.4,), std=(0.2,), device="cpu")
    (model,) = predictor.models
    with fake_gpu() as noted:
        predictor.device = GPU
        model.to(GPU)
        scale_and_shift((0.4,), (0.2,), GPU)
        noted.waits.clear()
        for name in ("encode", "decode"):
            run = getattr(model, name)

            def note(*args: Any, name: str = name, run: Callable[..., Any] = run) -> Any:
                noted.events.append(name)
                return run(*args)

            monkeypatch.setattr(model, name, note)

        def batches() -> Iterator[Tensor]:
            for number in range(4):
                noted.events.append(f"batch {number}")
                yield torch.zeros(2, 1, 32, 64, dtype=torch.uint8)

        def cleared(any_probs: np.ndarray) -> np.ndarray:
            asked.append(len(asked) % 2 == 1)
            return np.full(any_probs.shape, asked[-1])

        for mask_probs, label_probs, _ in predictor.stream(batches(), lambda *probs: probs, cleared):
            assert (mask_probs.shape, label_probs.shape) == ((2, 3, 32, 64), (2, 4))
        assert noted.waits == []
    scale_and_shift.cache_clear()
    assert asked == [False, True] * 2
    before = "side stream waits for stream"
    # The memory of a batch's maps, of its labels, and of whether these say anything.
    behind = [f"side stream uses a torch.{dtype}" for dtype in ("uint8", "uint8", "bool")]
    assert noted.events == [
        *("batch 0", "encode", "record 0"),
        *("batch 1", "encode", "record 1", "wait for 0", "decode", before, "record 2", "record 3", "record 4", *behind),
        *("batch 2", "encode", "record 5", "wait for 1", before, "record 6", "record 7", "record 8", *behind),
        *("wait for 2", "wait for 3", "wait for 4"),
        *("batch 3", "encode", "record 9", "wait for 5", "decode", before, "record 10", "record 11", "record 12"),
        *(*behind, "wait for 6", "wait for 7", "wait for 8"),
        *("wait for 9", before, "record 13", "record 14", "record 15", *behind),
        *(f"wait for {number}" for number in range(10, 16)),
    ]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("gated", [False, True])
def test_a_gpu_reduces_batches_in_their_order_whether_whole_in_halves_or_in_tiles(
    network: UnifiedModel, monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    """Where a batch's truth waits in a queue, another's would be taken for it; only small batches come in halves."""
    scale_and_shift.cache_clear()
    tiling = TilingConfig(tile=64, overlap=16, budget=64 * 64)
    predictor = Predictor([network], mean=(0.4,), std=(0.2,), device="cpu", tiling=tiling)
    monkeypatch.setattr(Blender, "add", lambda self, tile, probs: None)  # which have no values
    monkeypatch.setattr("steel.inference.predictor.MOST_PIXELS", 32 * 64)
    sizes = [(64, 160), (64, 64), (32, 64), (64, 192), (32, 64), (64, 64), (32, 32)]
    reduced = []

    def reduce(mask_probs: Tensor, label_probs: Tensor) -> tuple[Tensor, Tensor]:
        reduced.append(tuple(mask_probs.shape[-2:]))
        return mask_probs, label_probs

    cleared = (lambda any_probs: np.zeros(any_probs.shape, bool)) if gated else None
    with fake_gpu():
        predictor.device = GPU
        predictor.models[0].to(GPU)
        scale_and_shift((0.4,), (0.2,), GPU)
        batches = (torch.zeros(1, 1, *size, dtype=torch.uint8) for size in sizes)
        found = [tuple(masks.shape[-2:]) for masks, _, _ in predictor.stream(batches, reduce, cleared)]
    scale_and_shift.cache_clear()
    assert reduced == sizes
    assert found == sizes


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_gpu_has_its_next_tile_before_the_host_blends_the_last(
    network: UnifiedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tiles of one image, each a record, and its labels. What the host then has is not copied once more."""
    scale_and_shift.cache_clear()
    tiling = TilingConfig(tile=64, overlap=16, budget=64 * 64)
    predictor = Predictor([network], mean=(0.4,), std=(0.2,), device="cpu", tiling=tiling)
    monkeypatch.setattr(Blender, "add", lambda self, tile, probs: None)  # which have no values
    with fake_gpu() as noted:
        predictor.device = GPU
        predictor.models[0].to(GPU)
        scale_and_shift((0.4,), (0.2,), GPU)
        noted.waits.clear()
        predictor.on_tile = lambda done, total: noted.events.append(f"tile {done} of {total}")
        made: list[Tensor] = []

        def reduce(*probs: Tensor) -> tuple[Tensor, ...]:
            made.extend(probs)
            return probs

        ((mask_probs, label_probs, _),) = predictor.stream([torch.zeros(1, 1, 64, 160, dtype=torch.uint8)], reduce)
        assert noted.waits == ["copy cuda to cpu"]  # of the labels, when all tiles are done
    scale_and_shift.cache_clear()
    assert (mask_probs.shape, label_probs.shape) == ((1, 3, 64, 160), (1, 4))
    assert mask_probs is made[0]
    assert label_probs is made[1]
    assert noted.events[:8] == [
        *("record 0", "tile 1 of 3", "record 1", "wait for 0", "tile 2 of 3"),
        *("record 2", "wait for 1", "tile 3 of 3"),
    ]
