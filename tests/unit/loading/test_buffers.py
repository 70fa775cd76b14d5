"""Buffers that travel between processes: never written again while somebody still looks at them."""

import logging
import multiprocessing
from collections.abc import Iterator

import pytest
import torch

from steel.loading import buffers
from steel.loading.buffers import Allocate, BufferPool, ordered_batches
from steel.loading.workers import PREFETCH

SIZE = 4096

pytestmark = pytest.mark.usefixtures("no_children")


def filled(number: int, allocate: Allocate) -> tuple[torch.Tensor, int]:
    """A buffer full of its number; every fifth is larger than the pool's."""
    buffer = allocate(SIZE * 3 if number % 5 == 4 else SIZE)
    buffer.fill_(number % 251)
    return buffer, number


def check(buffer: torch.Tensor, number: int) -> None:
    assert buffer.numel() == (SIZE * 3 if number % 5 == 4 else SIZE)
    assert buffer.unique().tolist() == [number % 251]


def batches(num: int, workers: int, **options: str | bool) -> Iterator[tuple[torch.Tensor, int]]:
    return ordered_batches(filled, range(num), buffer_bytes=SIZE, workers=workers, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_arrive_whole_and_in_order(workers: int) -> None:
    seen = []
    for buffer, number in batches(60, workers):
        check(buffer, number)
        seen.append(number)
    assert seen == list(range(60))


def test_batches_that_are_kept_are_not_written_again() -> None:
    """More are held than the pool has, as whole batches, slices and numpy views."""
    held: list[tuple[torch.Tensor, int]] = []
    for buffer, number in batches(120, 2):
        if number % 3 == 0:
            held.append((buffer, number))
        elif number % 3 == 1:
            held.append((torch.from_numpy(buffer.view(-1, 2)[5:9, :1].numpy()), number))
    assert len(held) > 2 * (2 * PREFETCH + 3)
    for tensor, number in held:
        assert tensor.unique().tolist() == [number % 251]


def test_a_pool_lends_each_buffer_until_the_last_view_is_gone() -> None:
    pool = BufferPool(2, SIZE)
    first, second = pool.take(), pool.take()
    assert first is not None
    assert {first, second} == {0, 1}
    assert pool.take() is None
    lent = pool.lend(first, 100)
    view = lent.view(10, 10)[3:].numpy()
    del lent
    assert pool.take() is None
    del view
    assert pool.take() == first


def test_buffers_go_round_and_no_new_ones_are_made() -> None:
    places = {buffer.data_ptr() for buffer, number in batches(200, 2) if number % 5 != 4}
    assert len(places) <= 2 * PREFETCH + 3


def test_workers_are_less_far_ahead_with_large_batches() -> None:
    """One batch each where they are of half a gigabyte; the memory of such a pool is asked for, but not touched."""
    taken: dict[int, int] = {}
    for size in (SIZE, 1 << 29):
        asked = 0

        def numbers() -> Iterator[int]:
            nonlocal asked
            for number in range(50):
                asked += 1
                yield number

        results = ordered_batches(filled, numbers(), buffer_bytes=size, workers=2)
        next(results)
        taken[size] = asked
        results.close()
    in_sight = 2  # beyond those that workers have
    assert taken == {SIZE: 2 * PREFETCH + 1 + in_sight, 1 << 29: 2 * 1 + 1 + in_sight}


def test_leaving_early_leaves_nobody() -> None:
    results = batches(1000, 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


class CUDA:
    """What is asked of CUDA, which is not there."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.registered: dict[int, int] = {}
        """Sizes by address."""
        self.calls: list[str] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.calls.append("register")
        if not self.error:
            self.registered[address] = size
        return self.error

    def cudaHostUnregister(self, address: int) -> int:
        self.calls.append("unregister")
        del self.registered[address]
        return 0

    def knows(self, buffer: torch.Tensor) -> bool:
        first, last = buffer.data_ptr(), buffer.data_ptr() + buffer.numel()
        return any(start <= first and last <= start + size for start, size in self.registered.items())


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CUDA:
    cuda = CUDA()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cuda)
    monkeypatch.setattr(buffers, "_unused", [])

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        cuda.calls.append("copy")
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    return cuda


def test_buffers_are_pinned_once_and_not_copied(cuda: CUDA) -> None:
    """But for batches that are larger than usual, every fifth."""
    for buffer, number in batches(60, 2, pin_memory=True, pin_in_place=True):
        check(buffer, number)
        assert cuda.knows(buffer) == (number % 5 != 4)
    assert cuda.calls == ["register", *["copy"] * 12]


def test_a_batch_that_finds_all_buffers_in_use_is_copied(cuda: CUDA) -> None:
    held = [buffer for buffer, _ in batches(40, 1, pin_memory=True, pin_in_place=True)]
    assert len({buffer.data_ptr() for buffer in held}) == 40
    assert [number for number, buffer in enumerate(held) if cuda.knows(buffer)][:3] == [0, 1, 2]
    assert 8 < cuda.calls.count("copy") < 40


def test_memory_stays_pinned_while_it_is_looked_at_and_until_the_next_pool_is_pinned(cuda: CUDA) -> None:
    """Giving it up may wait for the device, and does so in no other place."""
    results = batches(60, 2, pin_memory=True, pin_in_place=True)
    held, _ = next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(list(batches(4, 1, pin_memory=True, pin_in_place=True))) == 4
    assert cuda.knows(held)
    del held
    assert cuda.calls == ["register", "register"]
    next(batches(4, 1, pin_memory=True, pin_in_place=True))
    assert cuda.calls == ["register", "register", "unregister", "unregister", "register"]
    assert len(cuda.registered) == 1


def test_without_leave_to_pin_batches_are_copied(cuda: CUDA, caplog: pytest.LogCaptureFixture) -> None:
    cuda.error = 801
    with caplog.at_level(logging.WARNING):
        for buffer, number in batches(10, 2, pin_memory=True, pin_in_place=True):
            check(buffer, number)
    assert cuda.calls == ["register", *["copy"] * 10]
    (message,) = caplog.messages
    assert "error 801" in message


@pytest.mark.parametrize(("options", "copies"), [({}, 0), ({"pin_in_place": True}, 0), ({"pin_memory": True}, 10)])
def test_only_who_asks_for_it_has_buffers_pinned(options: dict[str, bool], copies: int, cuda: CUDA) -> None:
    for buffer, number in batches(10, 1, **options):
        check(buffer, number)
    assert cuda.calls == ["copy"] * copies
