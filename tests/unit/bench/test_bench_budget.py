"""What is read of a training that had a budget, and the table of such."""

import pytest

from bench.budget import Row, page, told
from train.budget import PASSES, explain_fit
from train.engine.measured_pace import MeasuredPace
from train.presets import SMOKE

PACE = MeasuredPace((0.01, 0.02), 3.0, 1.0)


@pytest.mark.parametrize(("passes", "expected"), [(1.0, "1"), (2.6, "2.6"), (PASSES[-1], "120")])
def test_what_a_run_says_of_its_budget_is_read(passes: float, expected: str) -> None:
    said = f"a line\nauto: budget: {explain_fit(SMOKE, passes, 120, PACE, 95.0)}\nphase 1 of 2"
    assert told(said) == (expected, "1:35")
    with pytest.raises(ValueError, match="says nothing of its budget: a line"):
        told("a line")


def test_a_run_that_takes_longer_misses() -> None:
    rows = [Row("2m", 120, 1, "3", "1:48", 14.2, 119.6), Row("2m", 120, 2, "5", "1:48", 20, 126.0)]
    *_, kept, missed = page(rows, {}).splitlines()
    assert kept == "| 2m | 1 | 3 | 14 | 1:48 | 120 | 100% | at most 100%: reached |"
    assert missed == "| 2m | 2 | 5 | 20 | 1:48 | 126 | 105% | at most 100%: **missed** |"
