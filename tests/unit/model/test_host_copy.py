"""Device values on their way to the host: what a GPU would be asked for, counted without one."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from steel.model.host_copy import HostCopy
from tests.unit.train.engine.test_step_metrics import PLAN, step_metrics
from train.engine.step import StepSums


class Calls(TorchDispatchMode):
    """Notes what copies to the host or waits, and where from."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name == "empty":
            self.names.append("pinned memory" if kwargs["pin_memory"] else "pageable memory")
        elif name == "copy_":
            target, source, non_blocking = args
            self.names.append(f"copy {source.device.type} to {target.device.type}, wait: {not non_blocking}")
        elif name in ("_local_scalar_dense", "_to_copy", "is_nonzero", "equal"):
            self.names.append(f"{name} on {kwargs.get('device') or args[0].device.type}")
        return func(*args, **kwargs)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()

    class Event:
        def record(self, stream: str = "of the current GPU") -> None:
            calls.names.append(f"event {stream}")

        def synchronize(self) -> None:
            calls.names.append("wait for the event")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"of {device}")
    return calls


def sums_on_gpu() -> StepSums:
    loss = torch.ones((), dtype=torch.float64, device="cuda")
    return StepSums(
        losses={"segmentation": loss, "classification": loss},
        skipped=torch.zeros((), device="cuda"),
        sample_losses=torch.ones(2, device="cuda"),
        rows=torch.tensor([10, 11]),
        bad_samples=0,
    )


BEGINS = ["pinned memory", "copy cuda to cpu, wait: False", "event of cuda:0"]


def test_a_step_is_read_after_the_next_one_was_launched_and_nothing_else_waits(calls: Calls) -> None:
    watched = step_metrics()
    with FakeTensorMode(allow_non_fake_inputs=True):
        first, second = sums_on_gpu(), sums_on_gpu()
        with calls:
            watched.push(PLAN, 0, 1e-3, first)
            casts = ["_to_copy on cuda"] * 2  # to float64, on the device
            assert calls.names == [*casts, *BEGINS]
            calls.names.clear()
            with pytest.raises(DataDependentOutputException):  # fake tensors have no values: the host's copy is read
                watched.push(PLAN, 1, 1e-3, second)
    assert calls.names == [*casts, *BEGINS, "wait for the event", "_local_scalar_dense on cpu"]


def test_on_a_cpu_the_copy_is_there_at_once_and_stays_as_it_was(calls: Calls) -> None:
    values = torch.tensor([1.0, float("nan"), 3.0], requires_grad=True)
    copy = HostCopy(values)
    with torch.no_grad():
        values.fill_(7.0)
    first, second, third = copy.read()
    assert (first, third) == (1.0, 3.0) and second != second
    assert not any(name.startswith("event") for name in calls.names)


def test_the_event_is_of_the_gpu_that_copies(calls: Calls) -> None:
    """Not of the one that happens to be current, which is done at once: what is read then is not there yet."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        values = torch.ones(2, device="cuda:1")
        with calls:
            HostCopy(values)
    assert calls.names == ["pinned memory", "copy cuda to cpu, wait: False", "event of cuda:1"]
