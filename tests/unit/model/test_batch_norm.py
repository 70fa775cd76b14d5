"""Running statistics: joined over ranks as one rank would have them, by hand and against the layers themselves."""

import copy
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm.layers
import torch
from torch import Tensor, nn

from steel.errors import InputError
from steel.model.batch_norm import RunningStatistics
from tests.operations import Operations

ACCEPT, REFUSE = torch.tensor(0.0), torch.tensor(1.0)


def alone(tensor: Tensor) -> None:
    raise AssertionError("one rank has nothing to sum")


class Ranks:
    """Ranks as threads of this process, which meet in `all_reduce`."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._parts: list[Tensor] = []
        self._meeting = threading.Barrier(world)

    def all_reduce(self, tensor: Tensor) -> None:
        self._parts.append(tensor.clone())
        self._meeting.wait(10)
        tensor.copy_(torch.stack(self._parts).sum(0))
        if self._meeting.wait(10) == 0:
            self._parts.clear()
        self._meeting.wait(10)

    def run(self, task: Callable[[int], None]) -> None:
        with ThreadPoolExecutor(self.world) as pool:
            for done in [pool.submit(task, rank) for rank in range(self.world)]:
                done.result(20)


def share(rank: int, world: int, total: int) -> range:
    return range(rank * total // world, (rank + 1) * total // world)


def step(model: nn.Module, batches: Sequence[Tensor], world: int, skipped: Tensor = ACCEPT) -> list[nn.Module]:
    """What each rank's copy of `model` is after a step on `batches`, dealt to the ranks."""
    models = [copy.deepcopy(model) for _ in range(world)]
    ranks = Ranks(world)

    def run(rank: int) -> None:
        statistics = RunningStatistics(models[rank])
        before, mine = statistics.take(), share(rank, world, len(batches))
        for index in mine:
            models[rank](batches[index])
        statistics.settle(before, skipped, mine, len(batches), ranks.all_reduce if world > 1 else alone)

    ranks.run(run)
    return models


def test_by_hand() -> None:
    """One channel, momentum 1/2, from mean 8 and variance 16: micro-batches (0, 2), (4, 8), (1, 1) on ranks of 1 and 2.

    Their means are 1, 6, 1, their unbiased variances 2, 8, 0. Means: 8 -> 4.5 -> 5.25 -> 3.125; variances:
    16 -> 9 -> 8.5 -> 4.25. One rank of two would stand at 4.5 and 9, the other at (8 -> 7 ->) 4 and (16 -> 12 ->) 6.
    """
    layer = nn.BatchNorm1d(1, momentum=0.5, affine=False)
    layer.running_mean.fill_(8)
    layer.running_var.fill_(16)
    layer.num_batches_tracked.fill_(5)
    batches = [torch.tensor(values).view(2, 1) for values in ((0.0, 2.0), (4.0, 8.0), (1.0, 1.0))]
    for world in (1, 2, 3):
        for model in step(layer, batches, world):
            assert model.running_mean.item() == 3.125 and model.running_var.item() == 4.25
            assert model.num_batches_tracked.item() == 8


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.BatchNorm2d(3, momentum=0.1),
        nn.Conv2d(3, 4, 1),
        nn.InstanceNorm2d(4, momentum=0.3, track_running_stats=True),
        timm.layers.EvoNorm2dB0(4),
        nn.BatchNorm2d(4, momentum=0.02, track_running_stats=False),
        nn.BatchNorm2d(4, momentum=0.5),
    )
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    return model


BATCHES = [2 * torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(n)) + n for n in range(5)]


@pytest.mark.parametrize("world", [2, 3, 4, 5])
def test_ranks_end_as_one_that_computes_every_micro_batch(world: int) -> None:
    """Each layer's own momentum, shares as even as they come of five micro-batches; the layers update themselves."""
    plain = network()
    for batch in BATCHES:
        plain(batch)
    for model in step(network(), BATCHES, world):
        for (name, found), expected in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=name)
    changed = [name for name, value in network().state_dict().items() if not value.equal(plain.state_dict()[name])]
    assert len(changed) == 3 + 3 + 2 + 1  # InstanceNorm counts no batches, EvoNorm has a variance alone


def test_one_rank_keeps_every_bit() -> None:
    plain = network()
    for batch in BATCHES:
        plain(batch)
    (model,) = step(network(), BATCHES, 1)
    assert all(a.equal(b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


def test_a_frozen_layer_keeps_every_bit() -> None:
    model = network()
    model[5].eval()
    before = {name: value.clone() for name, value in model[5].state_dict().items()}
    for found in step(model, BATCHES, 3):
        assert all(value.equal(before[name]) for name, value in found[5].state_dict().items())
        assert not found[0].running_mean.equal(model[0].running_mean)


@pytest.mark.parametrize("share", [range(2), range(1)])  # all of a step's micro-batches, and one of them
def test_they_cost_as_many_operations_however_many_layers_there_are(share: range) -> None:
    found = []
    for num in (1, 20):
        statistics = RunningStatistics(nn.Sequential(*(nn.BatchNorm2d(4) for _ in range(num))))
        with Operations() as operations:
            before = statistics.take()
            statistics.put_back(before)
            statistics.settle(before, ACCEPT, share, 2, lambda tensor: None)
        found.append([name for name, _ in operations.done])
    assert found[0] == found[1]
    assert 0 < len(found[0]) < 20


@pytest.mark.parametrize("world", [1, 2])
def test_a_refused_step_puts_everything_back(world: int) -> None:
    """Also where one rank alone met the value that poisons the statistics."""
    model = network()
    batches = [*BATCHES[:3], BATCHES[3] * math.nan]
    for found in step(model, batches, world, REFUSE):
        assert all(a.equal(b) for a, b in zip(found.state_dict().values(), model.state_dict().values(), strict=True))


def test_the_layers_and_the_flat_tensor_stay_one() -> None:
    """Through loading, copying and another layout; and a backward pass misses no buffer."""
    model = network()
    statistics = RunningStatistics(model)
    model.load_state_dict({name: value + 1 for name, value in network().state_dict().items()})
    model.to("cpu").to(memory_format=torch.channels_last)
    assert statistics.take().values[:3].equal(network()[0].running_mean + 1)
    twin = copy.deepcopy(model)
    before = statistics.take()
    model(BATCHES[0]).sum().backward()
    assert not statistics.take().values.equal(before.values)
    assert twin[0].running_mean.equal(network()[0].running_mean + 1)
    statistics.settle(before, REFUSE, range(1), 1, alone)
    assert all(a.equal(b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


def test_every_buffer_begins_where_a_compiled_graph_takes_it_as_it_lies() -> None:
    """At a multiple of 16 bytes. Of what it would copy instead, and changes, torch records no CUDA graph."""
    model = nn.Sequential(*(nn.BatchNorm2d(channels) for channels in (3, 5, 1, 6)))
    statistics = RunningStatistics(model)
    assert all(statistics.hold(buffer) for buffer in model.buffers())
    places = [buffer.storage_offset() * buffer.element_size() for buffer in model.buffers()]
    assert len({*places}) > 8 and all(place % 16 == 0 for place in places)


def test_a_network_that_was_moved_is_refused() -> None:
    """Its layers have other buffers now; torch copies from `cpu` to `cpu:0`."""
    model = network()
    statistics = RunningStatistics(model)
    model.to("cpu:0")
    with pytest.raises(AssertionError, match="moved"):
        statistics.take()


def test_a_step_does_not_walk_over_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = RunningStatistics(network())

    def walked(*args: object, **kwargs: object) -> None:
        raise AssertionError("walked over the modules")

    for name in ("named_modules", "named_buffers", "modules", "buffers", "children"):
        monkeypatch.setattr(nn.Module, name, walked)
    statistics.settle(statistics.take(), ACCEPT, range(1), 2, lambda tensor: None)


def test_a_network_without_running_statistics_costs_nothing() -> None:
    statistics = RunningStatistics(nn.Conv2d(1, 1, 1))
    statistics.settle(statistics.take(), REFUSE, range(1), 2, alone)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm2d(2, momentum=None), r"model: 0 averages .* \(momentum None\)"),
        (nn.SyncBatchNorm(2), "model: 0 is a SyncBatchNorm"),
    ],
)
def test_what_cannot_be_joined_is_refused_by_name(layer: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RunningStatistics(nn.Sequential(layer))
