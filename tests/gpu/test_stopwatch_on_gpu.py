"""A GPU's steps are timed where they are done, not where they are asked for."""

import time

import pytest
import torch

from train.engine.stopwatch import Stopwatch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_steps_take_what_the_device_needs_for_them():
    numbers = torch.randn(4096, 4096, device="cuda")

    def work(times):
        for _ in range(20 * times):
            torch.mm(numbers, numbers)

    work(1)
    torch.cuda.synchronize()
    watch, begun = Stopwatch(torch.device("cuda")), time.perf_counter()
    work(1)
    first = watch.lap()
    work(2)
    second = watch.lap()
    asked = time.perf_counter() - begun
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    watch.add(10, first)
    images, a_third = watch.take()
    watch.add(20, second)
    further_images, two_thirds = watch.take()
    assert (images, further_images) == (10, 20)
    assert a_third + two_thirds == pytest.approx(seconds, rel=0.1)
    assert two_thirds == pytest.approx(2 * a_third, rel=0.3)  # of the device's time: by the host's it is any share
    assert asked < seconds / 2
