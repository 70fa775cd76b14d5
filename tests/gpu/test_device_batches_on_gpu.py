"""Micro-batches that are copied ahead from the loader's own buffers: on a GPU, with the bytes that the workers made."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from steel.loading.workers import PREFETCH
from steel.shards.reader import ShardReader
from tests.gpu.places import GPU, behind, no_host_waits
from tests.gpu.test_pinned_batches import load, train_generator
from tests.shard_folder import small_shards
from train.engine.device_batches import device_batches

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@contextlib.contextmanager
def late(stream: torch.cuda.Stream, on: Callable[[torch.cuda.Stream], Any] = torch.cuda.stream) -> Iterator[None]:
    """As `torch.cuda.stream`, with some hundredths of a second to do before what is asked for in the block."""
    with on(stream):
        torch.cuda._sleep(5 * 10**7)
        yield


@pytest.mark.parametrize("is_late", [False, True])
def test_workers_never_write_over_what_is_being_copied(
    is_late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the host has asked for many more by the time that a copy begins: it waits for none."""
    reader = ShardReader(small_shards(tmp_path / "shards"))
    if is_late:
        monkeypatch.setattr(torch.cuda, "stream", late)
    for _ in range(2):  # the second time what was registered for the first is given up
        found, num_on_their_way = [], 0
        for batch in device_batches(train_generator(reader, 2, pin_in_place=True), GPU):
            arrived = torch.cuda.current_stream(GPU).record_event()
            num_on_their_way += not arrived.query()
            assert batch.pairs is not None
            assert batch.images.device == batch.targets.device == batch.pairs.device == GPU
            found.append([tensor.clone() for tensor in (batch.images, batch.targets, batch.pairs)])
        assert len(found) == 40
        assert not is_late or num_on_their_way > 5
        for plain, copies in zip(load(reader, 0, False), found, strict=True):
            assert plain.pairs is not None
            for tensor, copy in zip((plain.images, plain.targets, plain.pairs), copies, strict=True):
                assert torch.equal(tensor, copy.cpu())


def test_the_buffers_themselves_are_pinned(tmp_path: Path) -> None:
    """They go round: no batch is in memory of its own."""
    batches = train_generator(ShardReader(small_shards(tmp_path / "shards")), 2, pin_in_place=True)
    places = set()
    for batch in batches:
        assert batch.images.is_pinned()
        assert batch.targets.is_pinned()
        places.add(batch.images.data_ptr())
    assert 0 < len(places) <= 2 * PREFETCH + 3


def test_nothing_waits_for_the_device(tmp_path: Path) -> None:
    batches = device_batches(train_generator(ShardReader(small_shards(tmp_path / "shards")), 2, pin_in_place=True), GPU)
    for _ in range(10):  # streams, buffers and the allocator's blocks are there
        next(batches)
    with behind(GPU), no_host_waits(GPU):
        for _ in range(10):
            next(batches)
    batches.close()


def test_a_refusal_is_not_left_for_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA refuses memory of size 0; what comes next on the device is not to blame."""
    cudart = torch.cuda.cudart()

    class Refusing:
        cudaHostUnregister = staticmethod(cudart.cudaHostUnregister)

        @staticmethod
        def cudaHostRegister(address: int, size: int, flags: int) -> object:
            return cudart.cudaHostRegister(address, 0, flags)

    monkeypatch.setattr(torch.cuda, "cudart", lambda: Refusing)
    reader = ShardReader(small_shards(tmp_path / "shards"))
    batches = device_batches(train_generator(reader, 2, pin_in_place=True), GPU)
    for batch, plain in zip(batches, load(reader, 0, False), strict=True):
        assert torch.equal(batch.images.cpu(), plain.images)
    assert "CUDA cannot register the loader's" in caplog.text
