"""The learning rate: each schedule against values worked by hand or by torch's own schedulers."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steel.config import PhaseConfig
from steel.errors import InputError
from steel.model.lr_schedule import SCHEDULES, lr_at

PHASE = PhaseConfig("p", epochs=1, crop=(0, 0), batch_size=2, micro_batch=1, lr=2.0, warmup=0.25, lr_floor=0.1)


def rates(phase: PhaseConfig, steps: int) -> list[float]:
    return [lr_at(step, steps, phase) for step in range(steps)]


def torchs(build: object, steps: int, **options: object) -> list[float]:
    """The rates of `steps` steps, and the one after them, by a scheduler of torch's."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = build(optimizer, **options)  # type: ignore[operator]
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_cosine_by_hand() -> None:
    # 8 steps, the first 2 rising; then the cosine's 6 steps end at the floor of 0.2.
    cosine = [0.2 + 1.8 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(1, 7)]
    assert rates(PHASE, 8) == pytest.approx([1.0, 2.0, *cosine])
    assert lr_at(7, 8, PHASE) == pytest.approx(0.2)
    assert lr_at(0, 1, PHASE) == 2.0


def test_constant_by_hand() -> None:
    assert rates(replace(PHASE, schedule="constant"), 8) == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_polynomial_by_hand_and_as_torch_has_it() -> None:
    line = replace(PHASE, schedule="polynomial", lr_power=1.0)
    assert rates(line, 8) == pytest.approx([1.0, 2.0, 1.7, 1.4, 1.1, 0.8, 0.5, 0.2])
    power = replace(line, lr_power=0.9, warmup=0.0, lr_floor=0.0)
    _, *expected = torchs(torch.optim.lr_scheduler.PolynomialLR, 9, total_iters=8, power=0.9)
    assert rates(power, 8) == pytest.approx(expected)


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0.3), (7, 0.5), (100, 0.05), (3, 0.9), (2, 0.9)])
def test_one_cycle_is_torchs(steps: int, warmup: float) -> None:
    phase = replace(PHASE, schedule="one_cycle", warmup=warmup, lr_floor=1 / 25 / 4)
    expected = torchs(
        torch.optim.lr_scheduler.OneCycleLR,
        steps,
        max_lr=2.0,
        total_steps=steps,
        pct_start=warmup,
        div_factor=25,
        final_div_factor=4,
    )
    assert rates(phase, steps) == pytest.approx(expected)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 500), st.floats(0, 0.99), st.floats(0, 1))
def test_every_rate_is_positive_rises_then_falls(name: str, total_steps: int, warmup: float, floor: float) -> None:
    phase = PhaseConfig("p", 1, (0, 0), 1, 1, lr=0.5, warmup=warmup, schedule=name, lr_floor=floor)
    found = rates(phase, total_steps)
    assert all(0 <= rate <= 0.5 + 1e-12 for rate in found)
    assert found[0] > 0 or (total_steps == 1 or floor == 0)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="phase p: schedule 'cosin' is unknown; there are cosine, constant"):
        lr_at(0, 1, replace(PHASE, schedule="cosin"))
