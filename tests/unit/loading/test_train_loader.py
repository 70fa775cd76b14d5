"""Batches: the same for any number of workers and ranks, from local and remote shards, whatever happens around them."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from steel.config import PhaseConfig, SamplingConfig, TransformConfig
from steel.errors import InputError
from steel.images.geometry import pad_image
from steel.loading.augment import Augmenter
from steel.loading.eval_loader import EvalBatch, eval_batches, plan_eval_batches
from steel.loading.sampler import build_sampler, sample_seeds
from steel.loading.train_loader import MicroBatch, present_pairs, train_batches, unpack_targets
from steel.loading.workers import ordered_map
from steel.shards.format import Manifest
from steel.shards.reader import BadSampleError, ShardReader
from tests.paths import ROOT
from tests.shard_folder import defect_mask, make_shards, small_shards, steel_image
from train.engine.batch_plan import PhasePlan, micro_batch_share

NUM, BATCH, MICRO = 22, 8, 2
TRANSFORMS = ("hflip", "vflip", "affine", "noise", "blackout", "brightness_contrast")

pytestmark = pytest.mark.usefixtures("no_children")


@dataclass(frozen=True)
class Place:
    index: int
    positions: range


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("data") / "shards", NUM)


def augmenter(reader: ShardReader, *transforms: str, crop: tuple[int, int] = (24, 32)) -> Augmenter:
    manifest = reader.manifest
    chosen = {name: TransformConfig() for name in transforms}
    return Augmenter(chosen, crop, SamplingConfig(), manifest.num_classes, manifest.ignore_bit)


def plan(rank: int = 0, world: int = 1) -> PhasePlan:
    phase = PhaseConfig("p", 2, (24, 32), BATCH, MICRO, lr=1e-3)
    share = micro_batch_share(phase, rank, world)
    return PhasePlan(0, phase, NUM, validation_interval=NUM, first_global_step=0, share=share)


def load(
    reader: ShardReader, *, first: int = 0, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[MicroBatch]:
    sampler = build_sampler(np.arange(NUM), reader.index.areas, SamplingConfig(), seed=5, phase=1)
    places = plan(rank, world).micro_batches(first)
    return train_batches(reader, sampler, augmenter(reader, *TRANSFORMS), places, seed=5, phase=1, workers=workers)


def assert_same(first: list[MicroBatch], second: list[MicroBatch]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.rows, b.rows)
        assert torch.equal(a.positions, b.positions)
        assert (a.index, a.bad_samples) == (b.index, b.bad_samples)
        assert a.pairs is not None and b.pairs is not None and torch.equal(a.pairs, b.pairs)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


# --- training batches ----------------------------------------------------------------------------------------------


def test_a_batch_is_what_reader_order_and_augmenter_make(shards: Path) -> None:
    reader = ShardReader(shards)
    sampler = build_sampler(np.arange(NUM), reader.index.areas, SamplingConfig(), seed=5, phase=1)
    cut = augmenter(reader, *TRANSFORMS)
    batches = list(load(reader))
    assert len(batches) == 6 * 4  # 2 epochs of 22 samples in whole steps of 4 micro-batches
    assert [batch.index for batch in batches] == [0, 1, 2, 3] * 6
    assert torch.cat([batch.positions for batch in batches]).tolist() == list(range(48))
    first_epoch = torch.cat([batch.rows for batch in batches])[:NUM]
    assert sorted(first_epoch.tolist()) == list(range(NUM))
    for batch in batches:
        assert (batch.images.shape, batch.images.dtype) == ((2, 1, 24, 32), torch.uint8)
        assert (batch.targets.shape, batch.targets.dtype) == ((2, 24, 32), torch.uint8)
        for i, position in enumerate(batch.positions.tolist()):
            row, target_class = (int(value[0]) for value in sampler.samples_at(np.array([position])))
            (seed,) = sample_seeds(5, 1, np.array([position]))
            sample = reader.read(row)
            image, target = cut(sample.image, sample.bitmask, seed=int(seed), target_class=target_class)
            assert batch.rows[i] == row
            assert np.array_equal(batch.images[i, 0].numpy(), image)
            assert np.array_equal(batch.targets[i].numpy(), target)


def test_workers_and_worlds_change_nothing(shards: Path) -> None:
    """World x workers in {1, 2, 4} x {0, 2}: the same micro-batch at every place of the global sequence."""
    reader = ShardReader(shards)
    alone = list(load(reader))
    for world in (1, 2, 4):
        for workers in (0, 2) if world < 4 else (2,):
            ranks = [list(load(reader, rank=rank, world=world, workers=workers)) for rank in range(world)]
            together = sorted((b for rank in ranks for b in rank), key=lambda b: int(b.positions[0]))
            assert_same(together, alone)
            assert len({len(rank) for rank in ranks}) == 1


def test_entering_at_a_later_step_gives_the_rest(shards: Path) -> None:
    reader = ShardReader(shards)
    assert_same(list(load(reader, first=4, workers=2)), list(load(reader))[4 * 4 :])


def test_colour_is_handed_over_channels_last(tmp_path: Path) -> None:
    images = [steel_image(n, 24, 32, 3) for n in range(2)]
    root = make_shards(tmp_path / "s", images, [defect_mask(n, 24, 32) for n in range(2)])
    reader = ShardReader(root)
    sampler = build_sampler(np.arange(2), reader.index.areas, SamplingConfig(), seed=0, phase=0)
    places = [Place(0, range(2))]
    (batch,) = train_batches(reader, sampler, augmenter(reader), places, seed=0, phase=0, workers=1)
    assert batch.images.shape == (2, 3, 24, 32)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for i, row in enumerate(batch.rows.tolist()):
        assert np.array_equal(batch.images[i].permute(1, 2, 0).numpy(), images[row])


def test_targets_of_many_classes_are_int32(tmp_path: Path) -> None:
    bitmasks = [np.full((5, 7), 1 << 11, np.uint16)]
    root = make_shards(tmp_path / "s", [steel_image(0, 5, 7)], bitmasks, num_classes=12)
    reader = ShardReader(root)
    sampler = build_sampler(np.arange(1), reader.index.areas, SamplingConfig(), seed=0, phase=0)
    cut = augmenter(reader, crop=(5, 9))
    (batch,) = train_batches(reader, sampler, cut, [Place(0, range(1))], seed=0, phase=0, workers=1)
    assert batch.targets.dtype == torch.int32
    assert sorted(batch.targets.unique().tolist()) == [1 << 11, 1 << 12]


def test_the_global_random_state_is_left_alone(shards: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(load(ShardReader(shards), workers=2))
    assert torch.equal(torch.rand(1), expected)


# --- targets on the device -----------------------------------------------------------------------------------------


def test_present_pairs_by_hand() -> None:
    targets = np.zeros((3, 4, 5), np.uint8)
    targets[0, 1, 1] = 0b0101  # classes 1 and 3
    targets[2, 3] = 0b1010  # class 2; the fourth bit says invalid
    assert present_pairs(targets, 3).tolist() == [0, 2, 7]
    targets[1, 0, 0] = 0b0010
    assert present_pairs(targets, 3).tolist() == [0, 1, 2, 3, 4, 7]  # four, and two more that are absent
    assert present_pairs(targets * 0, 3).tolist() == [0, 1, 2]  # absent all of them
    assert present_pairs(targets * 0 + 7, 3).tolist() == list(range(9))


def test_pairs_of_a_batch_hold_all_that_its_targets_have(shards: Path) -> None:
    for batch in load(ShardReader(shards)):
        masks, _ = unpack_targets(batch.targets, 3)
        present = set(masks.flatten(2).amax(-1).flatten().nonzero()[:, 0].tolist())
        assert batch.pairs is not None
        assert present <= set(batch.pairs.tolist())
        assert len(batch.pairs) == max(1, -(-len(present) // MICRO)) * MICRO


def test_expand_targets_by_hand() -> None:
    targets = torch.tensor([[[0b000, 0b001, 0b011, 0b100, 0b110]]], dtype=torch.uint8)
    masks, valid = unpack_targets(targets, 2)
    assert masks.dtype == valid.dtype == torch.float32
    assert masks.tolist() == [[[[0, 1, 1, 0, 0]], [[0, 0, 1, 0, 1]]]]
    assert valid.tolist() == [[[[1, 1, 1, 0, 0]]]]


def test_expand_targets_of_many_classes() -> None:
    masks, valid = unpack_targets(torch.tensor([[[1 << 11, 1 << 12, 0]]], dtype=torch.int32), 12)
    assert masks.shape == (1, 12, 1, 3)
    assert masks.sum().item() == masks[0, 11, 0, 0].item() == 1
    assert valid.tolist() == [[[[1, 0, 1]]]]
    masks, valid = unpack_targets(torch.tensor([[[127, 128]]], dtype=torch.uint8), 7)
    assert masks.sum((1, 2)).tolist() == [[7, 0]]
    assert valid.tolist() == [[[[1, 0]]]]


# --- bad samples ---------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Row 9 has a flipped bit in its image."""
    root = small_shards(tmp_path / "shards", NUM)
    reader = ShardReader(root)
    at = reader.samples.place(9)
    path = root / reader.manifest.shards[at.shard].name
    data = bytearray(path.read_bytes())
    data[at.image_offset + at.image_length // 2] ^= 1
    path.write_bytes(data)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_stops_with_one_line(damaged: Path, workers: int) -> None:
    with pytest.raises(BadSampleError) as caught:
        list(load(ShardReader(damaged), workers=workers))
    assert "images/0009.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_skipped_sample_keeps_its_place_and_counts_for_nothing(
    damaged: Path, shards: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = list(load(ShardReader(shards)))
    batches = list(load(ShardReader(damaged, on_bad_sample="skip"), workers=workers))
    bad = 0
    for batch, good in zip(batches, whole, strict=True):
        assert torch.equal(batch.rows, good.rows)
        hit = batch.rows == 9
        assert batch.bad_samples == hit.sum()
        assert torch.equal(batch.images[~hit], good.images[~hit])
        assert torch.equal(batch.targets[~hit], good.targets[~hit])
        if hit.any():
            bad += 1
            assert torch.equal(batch.targets[hit].unique(), torch.tensor([8], dtype=torch.uint8))  # invalid, no class
            assert torch.equal(batch.images[hit], batch.images[~hit])  # its neighbour's: plausible for BatchNorm
    assert bad >= 2
    assert len([r for r in caplog.records if "skipped: " in r.getMessage()]) == 1  # said once, not every epoch


def test_too_many_bad_samples_stop_all_the_same(damaged: Path) -> None:
    (damaged / "shard-000000.tar").unlink()
    reader = ShardReader(damaged, on_bad_sample="skip", max_bad_samples=4)
    with pytest.raises(BadSampleError, match="more than 4 damaged samples"):
        list(load(reader))
    list(load(ShardReader(damaged, on_bad_sample="skip", max_bad_samples=5)))


def test_a_micro_batch_that_is_all_bad_is_black_and_invalid(damaged: Path) -> None:
    reader = ShardReader(damaged, on_bad_sample="skip")
    sampler = build_sampler(np.asarray([9]), reader.index.areas, SamplingConfig(), seed=0, phase=0)
    places = [Place(0, range(2))]
    (batch,) = train_batches(reader, sampler, augmenter(reader), places, seed=0, phase=0, workers=0)
    assert batch.bad_samples == 2
    assert not batch.images.any()
    assert torch.all(batch.targets == 8)


# --- evaluation batches --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven images of four sizes, two padded sizes; the last was stored at half its size."""
    sizes = [(32, 64), (30, 60), (16, 33), (40, 64)]
    images = [steel_image(n, *sizes[n % 4]) for n in range(11)]
    bitmasks = [defect_mask(n, *sizes[n % 4]) for n in range(10)] + [defect_mask(10, 32, 66)]
    root = tmp_path_factory.mktemp("mixed") / "shards"
    return make_shards(root, images, bitmasks)


def collect(reader: ShardReader, **options: int) -> list[EvalBatch]:
    """In forward passes of three images of 32x64, which is one of 64x64."""
    return list(eval_batches(reader, np.arange(len(reader)), pixels_per_pass=3 * 32 * 64, stride=32, **options))


def test_evaluation_sees_every_image_once_and_whole(mixed_shards: Path) -> None:
    reader = ShardReader(mixed_shards)
    batches = collect(reader)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(11))
    assert {tuple(batch.images.shape) for batch in batches} == {(3, 1, 32, 64), (1, 1, 64, 64)}
    for batch in batches:
        for i, row in enumerate(batch.rows.tolist()):
            sample = reader.read(row)
            height, width = batch.sizes[i].tolist()
            assert (height, width) == sample.image.shape
            assert np.array_equal(batch.images[i, 0, :height, :width].numpy(), sample.image)
            assert np.array_equal(batch.images[i, 0].numpy(), pad_image(sample.image, *batch.images.shape[2:]))
            if row != 10:
                assert np.array_equal(batch.bitmasks[i], sample.bitmask)
        assert not batch.images[len(batch.rows) :].any()


def test_padding_mirrors_the_image() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert pad_image(image, 3, 5).tolist() == [[0, 1, 2, 1, 0], [3, 4, 5, 4, 3], [0, 1, 2, 1, 0]]
    assert pad_image(image[:1, :1], 2, 2).tolist() == [[0, 0], [0, 0]]


def test_masks_of_resized_images_come_back_at_the_original_size(mixed_shards: Path) -> None:
    reader = ShardReader(mixed_shards)
    (batch, i) = next((b, i) for b in collect(reader) for i, row in enumerate(b.rows.tolist()) if row == 10)
    assert batch.sizes[i].tolist() == [16, 33]
    assert batch.bitmasks[i].any()
    assert np.array_equal(batch.bitmasks[i], defect_mask(10, 32, 66))
    assert reader.read(10).bitmask.shape == (16, 33)


def test_evaluation_batches_are_the_same_for_every_world_and_workers(mixed_shards: Path) -> None:
    reader = ShardReader(mixed_shards)
    alone = {tuple(b.rows.tolist()): b for b in collect(reader)}
    for world, workers in ((2, 0), (3, 0), (9, 0), (2, 2)):
        ranks = [collect(reader, rank=rank, world=world, workers=workers) for rank in range(world)]
        assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
        together = [b for rank in ranks for b in rank]
        assert len(together) == len(alone)
        for batch in together:
            same = alone[tuple(batch.rows.tolist())]
            assert torch.equal(batch.images, same.images)
            assert torch.equal(batch.sizes, same.sizes)
            assert all(np.array_equal(a, b) for a, b in zip(batch.bitmasks, same.bitmasks, strict=True))


def test_evaluation_takes_only_the_rows_asked_for(mixed_shards: Path) -> None:
    reader = ShardReader(mixed_shards)
    items = plan_eval_batches(reader, np.asarray([0, 1, 4, 6, 7]), pixels_per_pass=2 * 32 * 64, stride=16)
    assert items == [((6,), 16, 48, 5), ((0, 1), 32, 64, 2), ((4,), 32, 64, 2), ((7,), 48, 64, 1)]
    assert plan_eval_batches(reader, np.asarray([], np.int32), pixels_per_pass=1, stride=16) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_and_counts_bad_samples(damaged: Path, workers: int) -> None:
    with pytest.raises(BadSampleError, match="row 9"):
        collect(ShardReader(damaged), workers=workers)
    batches = collect(ShardReader(damaged, on_bad_sample="skip"), workers=workers)
    assert sum(batch.bad_samples for batch in batches) == 1
    assert sorted(row for b in batches for row in b.rows.tolist()) == [r for r in range(NUM) if r != 9]
    assert len({batch.images.shape for batch in batches}) == 1


def test_evaluation_in_colour(tmp_path: Path) -> None:
    image = steel_image(0, 20, 30, 3)
    root = make_shards(tmp_path / "s", [image], [defect_mask(1, 20, 30)])
    (batch,) = collect(ShardReader(root))
    assert batch.images.shape == (6, 3, 32, 32)
    assert np.array_equal(batch.images[0, :, :20, :30].permute(1, 2, 0).numpy(), image)


# --- processes -----------------------------------------------------------------------------------------------------


def endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def slow_square(number: int) -> int:
    time.sleep(0.01)
    return number * number


def test_stop_signals_do_not_touch_workers() -> None:
    """As a cluster or a terminal sends them: to every process of the job. (The parent's own SIGTERM ends a worker.)"""
    results = ordered_map(slow_square, endless(), workers=2)
    assert next(results) == 0
    for worker in multiprocessing.active_children():
        for name in ("TERM", "INT", "USR1", "USR2"):
            subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert [next(results) for _ in range(100)] == [n * n for n in range(1, 101)]
    results.close()


def test_closing_early_is_quick_and_leaves_nobody() -> None:
    results = ordered_map(slow_square, endless(), workers=2)
    assert next(results) == 0
    with time_limit(3):
        results.close()
    assert not multiprocessing.active_children()


def sleep_long(number: int) -> int:
    time.sleep(0 if number == 0 else 1000)
    return number


def test_closing_does_not_wait_for_work_that_hangs() -> None:
    results = ordered_map(sleep_long, endless(), workers=1)
    assert next(results) == 0
    with time_limit(12):  # the loader gives a worker five seconds to leave
        results.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_an_error_not_a_hang() -> None:
    results = ordered_map(slow_square, endless(), workers=2)
    next(results)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with (
        time_limit(12),
        pytest.raises(InputError, match=r"a data-loading process was killed: DataLoader worker .*memory"),
    ):
        for _ in results:
            pass
    assert not multiprocessing.active_children()


def fail_on_three(number: int) -> int:
    if number == 3:
        raise OSError(28, "No space left on device", "/cache/shard")
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_in_a_worker_arrives_as_it_is(workers: int) -> None:
    results = ordered_map(fail_on_three, range(9), workers=workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="No space left") as caught:
        next(results)
    assert (caught.value.errno, caught.value.filename) == (28, "/cache/shard")


def use_opencv_and_torch(number: int) -> tuple[int, int]:
    import cv2

    cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 5.0)
    return cv2.getNumThreads(), torch.get_num_threads()


def test_workers_compute_in_one_thread_though_the_parent_used_many() -> None:
    import cv2

    cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 5.0)  # starts the parent's threads
    with time_limit(20):
        assert list(ordered_map(use_opencv_and_torch, range(2), workers=2)) == [(1, 1)] * 2


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import multiprocessing, sys, time
        from tests.unit.loading.test_train_loader import endless, slow_square
        from steel.loading.workers import ordered_map
        results = ordered_map(slow_square, endless(), workers=2)
        next(results)
        print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
        time.sleep(1000)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(map(is_running, workers)):
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_other_ways_to_start_workers_give_the_same(shards: Path, method: str) -> None:
    reader = ShardReader(shards)
    sampler = build_sampler(np.arange(NUM), reader.index.areas, SamplingConfig(), seed=5, phase=1)
    cut = augmenter(reader, *TRANSFORMS)
    options = {"seed": 5, "phase": 1, "workers": 2, "start_method": method}
    batches = list(train_batches(reader, sampler, cut, plan().micro_batches(0), **options))  # type: ignore[arg-type]
    assert_same(batches, list(load(reader)))


# --- remote shards -------------------------------------------------------------------------------------------------


def test_training_from_s3_gives_the_same_batches(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a real S3-protocol server on loopback."""
    pytest.importorskip("s3fs")
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("reading")
        fsspec.filesystem("s3").put(str(shards), "reading/shards", recursive=True)
        reader = ShardReader("s3://reading/shards", cache_dir=tmp_path)
        assert_same(list(load(reader, workers=2)), list(load(ShardReader(shards))))
        copies = list(tmp_path.rglob("*.tar"))
        assert len(copies) == len(Manifest.load(str(shards)).shards)
    finally:
        server.stop()
