"""What training waits for while its states are written: never for more than one step, however slow the disk."""

import itertools
import json
import re
import statistics
from pathlib import Path

import pytest

from tests.distributed.launching import TINY, run_script

STEPS_OF_A_WRITE = 5
OPTIONS = (
    "--phases.0.epochs 36 --phases.0.crop 64 160 --phases.1.epochs 0.1 --validation.every-epochs 36 "
    "--runtime.save-every 4"
).split()
"""41 steps of some 0.2 s, then one; a state each four steps, if they are written in time. None of them is validated."""
LINE = re.compile(r"state of phase 0, step (\d+) saved in ([\d.]+) s; training waited ([\d.]+) s for it(, .*)?")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_save_holds_training_up_for_at_most_a_step(tiny_shards: Path, tmp_path: Path, processes: int) -> None:
    """On a disk on which a state takes five steps: what is due meanwhile is put off.

    What is put off is not forgotten until its turn comes again. The last one of the phase, which comes before a
    validation, waits, and says so.
    """
    out = tmp_path / "run"
    script = "tests/distributed/programs/slow_disk_fit.py"
    done = run_script(processes, script, STEPS_OF_A_WRITE, *TINY, *OPTIONS, "--data", tiny_shards, "--out", out)
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    rates = [r["images_per_second"] for r in records if r["kind"] == "train" and r["phase"] == 0]
    assert len(rates) == 41
    step_s = statistics.median(8 / rate for rate in rates)

    *by_steps, last = LINE.findall(done.stdout + done.stderr)
    assert int(last[0]) == 41
    steps, writing, waits = ([float(line[column]) for line in by_steps] for column in range(3))
    assert len(steps) >= 3 and steps[0] == 4
    assert any(step % 4 for step in steps)
    assert min(after - before for before, after in itertools.pairwise(steps)) > STEPS_OF_A_WRITE
    assert min(writing) > (STEPS_OF_A_WRITE - 2) * step_s
    assert max(waits) <= step_s
    assert [line[3] for line in by_steps] == [""] * len(steps)
    assert "until the one before was written" in last[3]
