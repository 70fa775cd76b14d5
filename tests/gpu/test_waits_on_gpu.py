"""What the tests here hold against waiting does notice a host that waits, and nothing else."""

from collections.abc import Callable

import pytest
import torch

from tests.gpu.places import GPU, PLACES, behind, no_host_waits

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def wait_for_event() -> None:
    event = torch.cuda.Event()
    event.record()
    event.synchronize()


WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "a number": lambda numbers: numbers[0].item(),
    "a condition": lambda numbers: bool((numbers > 0).all()),
    "a copy": lambda numbers: numbers.cpu(),
    "a copy from pageable memory": lambda numbers: torch.ones(2).to(numbers.device),
    "a size": lambda numbers: numbers.nonzero(),
    "a stream": lambda numbers: torch.cuda.current_stream().synchronize(),
    "the device": lambda numbers: torch.cuda.synchronize(numbers.device),
}


@pytest.mark.parametrize("wait", [pytest.param(wait, id=name, marks=ON_GPU) for name, wait in WAITS.items()])
def test_what_waits_for_the_device_is_an_error(wait: Callable[[torch.Tensor], object]) -> None:
    numbers = torch.ones(2, device=GPU)
    with pytest.raises((RuntimeError, AssertionError)), no_host_waits(GPU):
        wait(numbers)
    wait(numbers)  # and is none afterwards


@pytest.mark.parametrize(
    "wait",
    [pytest.param(wait, id=name, marks=ON_GPU) for name, wait in WAITS.items()]
    + [pytest.param(lambda numbers: wait_for_event(), id="an event", marks=ON_GPU)],
)
def test_a_device_that_was_waited_for_is_not_behind(wait: Callable[[torch.Tensor], object]) -> None:
    numbers = torch.ones(2, device=GPU)
    with pytest.raises(AssertionError, match="has waited"), behind(GPU):
        wait(numbers)


@pytest.mark.parametrize("place", PLACES)
def test_launching_is_no_wait(place: torch.device) -> None:
    numbers = torch.ones(2, device=place)
    with behind(place), no_host_waits(place):
        for _ in range(500):
            numbers.add_(1)
    assert numbers.tolist() == [501, 501]
