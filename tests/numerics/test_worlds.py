"""The number of processes changes nothing: gradients, running statistics, weights and scores of worlds of 1 to 4."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import environment, run
from tests.numerics.one_step import EXACT, distance
from tests.numerics.programs.worlds import OPTIONS
from tests.paths import ROOT
from train.engine.metric_logger import TIMED

WORLDS = (2, 3, 4)


@pytest.fixture(scope="module")
def outcomes(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `worlds.py` has written."""
    folder = tmp_path_factory.mktemp("worlds")
    script = [sys.executable, "tests/numerics/programs/worlds.py", str(tiny_shards), str(folder)]
    done = subprocess.run(script, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder


def test_gradients(outcomes: Path) -> None:
    """With BatchNorm, dropout and deep supervision on, shares of 6, 3, 2 and (unequal) 1 or 2 micro-batches a rank."""
    alone, loss, _ = torch.load(outcomes / "1-0.pt")
    assert sum(float(gradient.norm()) for gradient in alone.values()) > 0.1
    assert min(float(alone[f"convolutions.{stage}.weight"].norm()) for stage in (0, 1)) > 0.01
    for world in WORLDS:
        for rank in range(world):
            gradients, total, _ = torch.load(outcomes / f"{world}-{rank}.pt")
            assert total == pytest.approx(loss, rel=EXACT)
            assert distance(gradients, alone) < EXACT, (world, rank)


def test_all_ranks_hold_the_same_statistics(outcomes: Path) -> None:
    """To the last bit, after each step; a skipped step leaves those of the step before it."""
    for world in (1, *WORLDS):
        digests = [torch.load(outcomes / f"{world}-{rank}.pt")[2] for rank in range(world)]
        assert digests.count(digests[0]) == world
        assert len(digests[0]) == 7 and digests[0][3] == digests[0][2] and len(set(digests[0])) == 6


def test_runs(outcomes: Path) -> None:
    """In float64: what differs is the order of sums alone, of which Adam's division by small roots makes more."""
    check_runs({world: outcomes / str(world) for world in (1, *WORLDS)}, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_runs_launched_as_users_do(tiny_shards: Path, tmp_path: Path) -> None:
    """By Python, `accelerate launch` and torchrun; in float32, where kernels decide near-ties by the processor, and
    without deep supervision: of the order of its sums Adam makes some 1e-3 by the end of the run."""
    for world in (1, *WORLDS):
        options = [*OPTIONS, "--model.deep-supervision", 0, "--data", tiny_shards, "--out", tmp_path / str(world)]
        run(world, "tests.distributed.programs.poisoned_fit", *options)
    check_runs({world: tmp_path / str(world) for world in (1, *WORLDS)}, rtol=1e-3, atol=1e-4)


def check_runs(runs: dict[int, Path], *, rtol: float, atol: float) -> None:
    alone = tensors_of(runs[1])
    # Five steps, one of them skipped, and two more, of five micro-batches each; the encoder is frozen in the first two.
    counts = {name: int(count) for name, count in alone.items() if name.endswith("num_batches_tracked")}
    assert {name.startswith("model.encoder"): count for name, count in counts.items() if name.startswith("model.")} == {
        True: 20,
        False: 30,
    }
    moved = [value for name, value in alone.items() if name.startswith("model.") and "running_mean" in name]
    assert all(float(mean.norm()) > 0.05 for mean in moved), "the statistics must have moved for this to say anything"
    losses = [record["loss"] for record in history_of(runs[1]) if record["kind"] == "train"]
    assert [number for number, loss in enumerate(losses) if loss is None] == [3]
    for world in WORLDS:
        found = tensors_of(runs[world])
        assert found.keys() == alone.keys()
        for name, expected in alone.items():
            if not name.startswith("optimizer."):
                torch.testing.assert_close(found[name], expected, rtol=rtol, atol=atol, msg=f"{world}: {name}")
        assert_close(history_of(runs[world]), history_of(runs[1]))
        assert_close(validation_of(runs[world]), validation_of(runs[1]))


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run / "states").iterdir()) / "tensors.safetensors")


def history_of(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMED} for record in records]


def validation_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "validation.json").read_text())


def assert_close(found: Any, expected: Any) -> None:
    """Equal but for the last digits of numbers that are not whole."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_close(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4)
    else:
        assert found == expected
