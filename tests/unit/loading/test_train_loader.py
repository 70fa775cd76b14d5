"""Training batches: the same for any number of workers and ranks, from local and remote shards, damaged ones too."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from steel.config import SamplingConfig
from steel.loading.sampler import build_sampler, sample_seeds
from steel.loading.train_loader import present_pairs, train_batches, unpack_targets
from steel.shards.format import Manifest
from steel.shards.reader import BadSampleError, Sample, ShardReader
from tests.shard_folder import defect_mask, make_shards, small_shards, steel_image
from tests.training_batches import MICRO, NUM, TRANSFORMS, Place, assert_same, augmenter, damaged_shards, load, plan

pytestmark = pytest.mark.usefixtures("no_children")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("data") / "shards", NUM)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    return damaged_shards(tmp_path / "shards")


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


def test_samples_are_asked_for_before_they_are_read(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    late: list[int] = []
    ask_for, read_sample = ShardReader.ask_for, ShardReader.read_sample

    def ask(reader: ShardReader, rows: list[int]) -> None:
        asked.extend(rows)
        ask_for(reader, rows)

    def read(reader: ShardReader, row: int) -> Sample:
        if row in asked:
            asked.remove(row)
        else:
            late.append(row)
        return read_sample(reader, row)

    monkeypatch.setattr(ShardReader, "ask_for", ask)
    monkeypatch.setattr(ShardReader, "read_sample", read)
    monkeypatch.setattr(ShardReader, "num_ahead", lambda _: 2 * MICRO)
    batches = load(ShardReader(shards))
    first = next(batches)
    assert late == first.rows.tolist()
    assert len(asked) == 3 * MICRO  # the one to come and so many beyond it
    assert len(list(batches)) == 23
    assert len(late) == MICRO
    assert asked == []


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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_other_ways_to_start_workers_give_the_same(shards: Path, method: str) -> None:
    reader = ShardReader(shards)
    sampler = build_sampler(np.arange(NUM), reader.index.areas, SamplingConfig(), seed=5, phase=1)
    cut = augmenter(reader, *TRANSFORMS)
    options = {"seed": 5, "phase": 1, "workers": 2, "start_method": method}
    batches = list(train_batches(reader, sampler, cut, plan().micro_batches(0), **options))  # type: ignore[arg-type]
    assert_same(batches, list(load(reader)))


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


def test_present_pairs_of_one_sample_are_two_at_least() -> None:
    """Of one pair alone torch.compile makes a constant, and a second graph when there are more."""
    target = np.zeros((1, 4, 5), np.uint8)
    assert present_pairs(target, 3).tolist() == [0, 1]
    assert present_pairs(target + 0b100, 3).tolist() == [0, 2]
    assert present_pairs(target + 0b110, 3).tolist() == [1, 2]
    assert present_pairs(target + 0b111, 3).tolist() == [0, 1, 2]
    assert present_pairs(target + 1, 1).tolist() == [0]  # of which there are never more


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
