"""A state is of the moment of its save, although the steps that follow change what it is copied from."""

from pathlib import Path

import pytest
import torch

from steel.model.host_copy import HostCopies
from tests.gpu.places import (
    LR,
    PLACES,
    behind,
    changed,
    fall_behind,
    job_on,
    look,
    micro_batches,
    no_host_waits,
    training_of,
)
from tests.numerics.one_step import plan_of
from train.engine.device_batches import device_batches
from train.engine.loop_state import LoopState
from train.engine.state import read_state
from train.engine.state_writer import StateWriter


@pytest.mark.parametrize("place", PLACES)
def test_steps_go_on_while_a_state_is_copied_and_written(place: torch.device, tmp_path: Path) -> None:
    """Twice, through the same memory, on a GPU that is behind: what is copied has yet to be computed when the host
    asks for it, and when it asks for what comes after. Nor does the host wait, not even for the first one's memory."""
    with job_on(place) as runtime:
        training, writer = training_of(runtime), StateWriter(tmp_path, keep=2)
        plan = plan_of(training.config)
        batches = device_batches(micro_batches(place, plan), runtime.device)
        steps = iter(range(10))

        def take_two() -> None:
            for _ in range(2):
                training.step(plan, next(steps), LR, batches)

        def save(step: int) -> dict[str, torch.Tensor]:
            fall_behind(place)
            take_two()
            moment = look(training)
            writer.submit(LoopState(step=step), (), training.tensors())
            take_two()
            return moment

        writer.reserve(training.tensors_to_come(), training.model.state_dict())
        take_two()  # kernels are loaded
        moments = []
        for step in (4, 8):
            with no_host_waits(place):
                moments.append(save(step))
            writer.wait()
        writer.close()
        batches.close()
        for step, moment in zip((4, 8), moments, strict=True):
            saved = read_state(tmp_path / f"000000-{step:08d}").tensors
            assert saved.keys() == moment.keys()
            assert [name for name, tensor in moment.items() if not saved[name].equal(tensor.cpu())] == []
            later = changed(moment, training)
            assert {name.partition(".")[0] for name in later} == {"model", "average", "average_updates", "optimizer"}


@pytest.mark.parametrize("place", PLACES)
def test_a_save_returns_while_the_gpu_is_behind(place: torch.device, tmp_path: Path) -> None:
    """All that a state has is changed right before the save and right after it. Of neither has the GPU begun anything
    when the save returns, and what is written is of the moment between."""
    with job_on(place) as runtime:
        training, writer = training_of(runtime), StateWriter(tmp_path, keep=2)
        plan = plan_of(training.config)
        batches = device_batches(micro_batches(place, plan), runtime.device)
        training.step(plan, 0, LR, batches)
        batches.close()
        floats = [tensor for tensor in training.tensors().values() if tensor.is_floating_point()]

        def change() -> None:
            """In few launches: a step has too many for a queue."""
            with torch.no_grad():
                torch._foreach_add_(floats, 1.0)

        writer.submit(LoopState(step=1), (), training.tensors())  # the first of all waits for the memory
        writer.wait()
        before = look(training)
        with behind(place), no_host_waits(place):
            change()
            writer.submit(LoopState(step=2), (), training.tensors())
            change()
        writer.wait()
        writer.close()
        first, second = (read_state(tmp_path / f"000000-{step:08d}").tensors for step in (1, 2))
        assert first.keys() == second.keys() == before.keys()
        between = {name: tensor.cpu() + tensor.is_floating_point() for name, tensor in before.items()}
        assert [name for name, tensor in before.items() if not first[name].equal(tensor.cpu())] == []
        assert [name for name, tensor in between.items() if not second[name].equal(tensor)] == []
        after = look(training)
        is_changed = {name: not second[name].equal(tensor.cpu()) for name, tensor in after.items()}
        assert is_changed == {name: tensor.is_floating_point() for name, tensor in before.items()}


@pytest.mark.parametrize("place", PLACES)
def test_copies_lie_in_pinned_memory(place: torch.device) -> None:
    """In that of the copies before, where sizes are the same; for a GPU pinned, which alone is copied to beside it."""
    with job_on(place) as runtime:
        training = training_of(runtime)
        copies, places = HostCopies(), []
        for _ in range(2):
            copies.begin(training.tensors())
            buffers, seconds = copies.wait()
            assert seconds > 0
            assert {buffer.is_pinned() for buffer in buffers.values()} == {place.type == "cuda"}
            places.append({name: buffer.data_ptr() for name, buffer in buffers.items()})
        assert places[0] == places[1]
