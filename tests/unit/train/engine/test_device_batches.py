"""The next micro-batch is on its way to the device while this one is computed with: on a GPU that is not there."""

import weakref
from collections.abc import Generator, Iterator

import pytest
import torch

from steel.loading.train_loader import MicroBatch
from tests.fake_gpu import GPU, HostWaits, fake_gpu
from train.engine.device_batches import device_batches

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


@pytest.fixture
def gpu() -> Iterator[HostWaits]:
    with fake_gpu() as noted:
        yield noted


class Loader:
    """Makes micro-batches in pinned memory, and knows which of them are still held."""

    def __init__(self, num: int, gpu: HostWaits, fails_at: int | None = None) -> None:
        self.num, self.gpu, self.fails_at = num, gpu, fails_at
        self.made: list[weakref.ref[MicroBatch]] = []
        self.is_closed = False

    def batches(self) -> Generator[MicroBatch, None, None]:
        try:
            for index in range(self.num):
                if index == self.fails_at:
                    raise ValueError("damaged")
                self.gpu.events.append(f"load {index}")
                yield self._make(index)
        finally:
            self.is_closed = True

    def _make(self, index: int) -> MicroBatch:
        images = torch.empty(3, 1, 32, 64, dtype=torch.uint8, pin_memory=True)
        targets = torch.empty(3, 32, 64, dtype=torch.int32, pin_memory=True)
        pairs = torch.empty(3, dtype=torch.int64, pin_memory=True)
        batch = MicroBatch(images, targets, torch.arange(3), torch.arange(3), index, 0, pairs)
        self.made.append(weakref.ref(batch))
        return batch

    def held(self) -> list[int]:
        return [index for index, made in enumerate(self.made) if made() is not None]


USE = ["stream uses a torch.uint8", "stream uses a torch.int32", "stream uses a torch.int64"]


def test_the_next_copy_is_begun_before_a_micro_batch_is_handed_over(gpu: HostWaits) -> None:
    """On a stream that waits for nothing; the computing one waits for its own micro-batch alone."""
    batches = device_batches(Loader(3, gpu).batches(), GPU)
    found, events = [], []
    for batch in batches:
        found.append(batch)
        events.append(list(gpu.events))
        gpu.events.clear()
    assert events == [
        ["load 0", "record 0", "load 1", "record 1", "stream waits for 0", *USE],
        ["load 2", "record 2", "stream waits for 1", *USE],
        ["stream waits for 2", *USE],
    ]
    assert gpu.waits == []
    assert gpu.copies == ["cpu to cuda on side stream"] * 9
    assert [batch.index for batch in found] == [0, 1, 2]
    for batch in found:
        assert batch.pairs is not None
        assert {t.device for t in (batch.images, batch.targets, batch.pairs)} == {GPU}
        assert batch.images.shape == (3, 1, 32, 64)
        assert {t.device.type for t in (batch.rows, batch.positions)} == {"cpu"}  # read by the host


def test_what_a_copy_reads_is_held_until_it_is_done(gpu: HostWaits, monkeypatch: pytest.MonkeyPatch) -> None:
    done: set[int] = set()
    monkeypatch.setattr(torch.cuda.Event, "query", lambda event: event.number in done)
    loader = Loader(6, gpu)
    batches = device_batches(loader.batches(), GPU)
    next(batches)
    assert loader.held() == [0, 1]
    next(batches)
    assert loader.held() == [0, 1, 2]
    done |= {0, 1}
    next(batches)
    assert loader.held() == [2, 3]
    done |= {2, 3}
    next(batches)
    assert loader.held() == [4]
    assert not any(event.startswith("wait for") for event in gpu.events)


def test_closing_waits_for_the_copies_and_ends_the_loader(gpu: HostWaits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda.Event, "query", lambda event: False)
    loader = Loader(6, gpu)
    batches = device_batches(loader.batches(), GPU)
    next(batches)
    gpu.events.clear()
    batches.close()
    assert gpu.events == ["wait for 0", "wait for 1"]
    assert loader.is_closed
    assert loader.held() == []


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_an_error_waits_for_its_micro_batch_to_be_asked_for(fails_at: int, gpu: HostWaits) -> None:
    batches = device_batches(Loader(3, gpu, fails_at).batches(), GPU)
    assert [next(batches).index for _ in range(fails_at)] == list(range(fails_at))
    with pytest.raises(ValueError, match="damaged"):
        next(batches)


def test_no_micro_batches_are_none(gpu: HostWaits) -> None:
    assert list(device_batches(Loader(0, gpu).batches(), GPU)) == []


def test_on_a_cpu_micro_batches_are_handed_over_as_they_are() -> None:
    batches = (batch for batch in ())
    assert device_batches(batches, torch.device("cpu")) is batches
