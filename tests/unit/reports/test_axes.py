"""Ticks of axes are round, at equal steps, and inside."""

import itertools

import pytest

from steel.reports.html.charts import round_step, round_ticks


@pytest.mark.parametrize("span", [(0, 1), (26.7, 204.3), (4.76, 60.7), (0, 0.0915), (-3, 5), (119, 120), (0, 1e6)])
def test_ticks_are_round_and_inside(span: tuple[float, float]) -> None:
    ticks = round_ticks(*span)
    assert 3 <= len(ticks) <= 6
    assert span[0] - 1e-6 <= ticks[0] and ticks[-1] <= span[1] + 1e-6
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert all(float(f"{tick:g}") == pytest.approx(tick) for tick in ticks)


@pytest.mark.parametrize(("least", "step"), [(1, 1), (1.01, 2), (0.0367, 0.05), (0.23, 0.25), (26, 50), (0.51, 1)])
def test_a_step_is_the_next_round_number(least: float, step: float) -> None:
    assert round_step(least) == pytest.approx(step)
