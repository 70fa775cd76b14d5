"""Positions of a run as arithmetic."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel.config import PhaseConfig
from steel.errors import InputError
from tests.paths import ROOT
from train.engine.batch_plan import check_processes, micro_batch_share, plan_phases
from train.presets import SEVERSTAL


def phase(epochs: float = 2, batch_size: int = 8, micro_batch: int = 2) -> PhaseConfig:
    return PhaseConfig("p", epochs=epochs, crop=(8, 8), batch_size=batch_size, micro_batch=micro_batch, lr=1e-3)


def test_a_phase_is_a_whole_number_of_steps() -> None:
    first, second = plan_phases((phase(2), phase(0.5)), [10, 10], every_epochs=1, rank=0, world=1)
    assert first.steps == 3  # 20 samples in steps of 8
    assert second.steps == 1
    assert second.first_global_step == 3


@given(st.floats(0.1, 8), st.integers(1, 60), st.integers(1, 12), st.floats(0.05, 3), st.integers(0, 30))
def test_validations_to_come_are_counted(epochs: float, length: int, size: int, every: float, done: int) -> None:
    (plan,) = plan_phases((phase(epochs, size, 1),), [length], every_epochs=every, rank=0, world=1)
    expected = sum(plan.validates_after(step) for step in range(done, plan.steps))
    assert plan.validations_after(done) == expected


def test_validations_fall_at_each_epoch_and_at_the_end() -> None:
    (plan,) = plan_phases((phase(2.1),), [20], every_epochs=1, rank=0, world=1)
    assert plan.steps == 6  # 42 samples
    assert [s for s in range(plan.steps) if plan.validates_after(s)] == [2, 4, 5]  # 24 >= 20, 40 >= 40, end


def test_a_fraction_of_an_epoch_that_divides_evenly_is_not_rounded_up_a_step() -> None:
    (plan,) = plan_phases((phase(0.1, batch_size=2),), [60], every_epochs=1, rank=0, world=1)
    assert plan.steps == 3


@given(st.integers(1, 9), st.integers(1, 40))
def test_ranks_share_each_micro_batch_exactly_once(world: int, micro_batches: int) -> None:
    shared = phase(batch_size=2 * micro_batches)
    if world > micro_batches:
        with pytest.raises(InputError, match=f"{world} processes"):
            check_processes([shared], world)
        return
    check_processes([shared], world)
    shares = [micro_batch_share(shared, rank, world) for rank in range(world)]
    assert [i for share in shares for i in share] == list(range(micro_batches))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_too_many_processes_are_told_what_gives_each_of_them_a_micro_batch() -> None:
    """Each way that is named is enough for all phases."""
    phases = [phase(batch_size=8, micro_batch=8), phase(batch_size=6, micro_batch=2), phase(batch_size=12)]
    with pytest.raises(InputError) as caught:
        plan_phases(phases, [10] * 3, every_epochs=1, rank=0, world=4)
    assert str(caught.value) == (
        "4 processes share 1 micro-batch per step (phase p: batch-size 8 / micro-batch 8; phase p: batch-size 6 / "
        "micro-batch 2); start at most 1 or give larger batches (--phases.0.batch-size 32 --phases.1.batch-size 8)"
    )
    check_processes([phase(batch_size=32, micro_batch=8), phase(batch_size=8), phases[2]], 4)
    with pytest.raises(InputError, match=r"or give smaller micro-batches \(--phases\.0\.micro-batch 4\) or larger"):
        check_processes(phases, 2)
    check_processes([replace(phases[0], micro_batch=4), *phases[1:]], 2)


@given(st.integers(1, 4), st.integers(0, 4))
def test_the_ranks_of_any_world_consume_the_same_positions(world: int, first_step: int) -> None:
    plans = [plan_phases((phase(3),), [12], every_epochs=1, rank=rank, world=world)[0] for rank in range(world)]
    taken = [m for plan in plans for m in plan.micro_batches(first_step)]
    positions = sorted(p for m in taken for p in m.positions)
    assert positions == list(range(first_step * 8, plans[0].steps * 8))
    assert all(m.positions.start == m.step * 8 + m.index * 2 for m in taken)


def test_the_default_recipe_feeds_eight_gpus() -> None:
    for part in SEVERSTAL.phases:
        assert sorted(i for rank in range(8) for i in micro_batch_share(part, rank, 8)) == list(range(8))


@pytest.mark.parametrize("page", ["README.md", "launch/README.md"])
def test_the_documented_batches_feed_two_machines_of_eight_gpus(page: str) -> None:
    text = (ROOT / page).read_text()
    found = re.findall(r"--phases\.(\d)\.batch-size (\d+)", text)
    assert {int(number) for number, _ in found} == set(range(len(SEVERSTAL.phases)))
    for number, size in found:
        part = replace(SEVERSTAL.phases[int(number)], batch_size=int(size))
        shares = [micro_batch_share(part, rank, 16) for rank in range(16)]
        assert all(shares)
        assert sorted(i for share in shares for i in share) == list(range(int(size) // part.micro_batch))
