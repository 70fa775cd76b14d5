"""Compiled by Inductor, a run agrees with an uncompiled one, and a resumed run with an undisturbed one, to tolerance.

Compiled kernels sum in another order than those of the library, and Adam turns the sign of a gradient near 0 into a
whole step: six losses of the two ways agreed to 4e-4 where this was written, and 2e-3 are allowed. A process that
resumes has its graphs made anew, from the same code: losses agreed there in every bit, and 1e-5 are allowed.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steel.distributed.runtime import Runtime, start
from tests.numerics.programs.every_stop import OPTIONS, StopAfter
from tests.numerics.quick import quicken
from train.arguments import parse_fit
from train.fit import train_in_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler"),
]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    quicken(monkeypatch)
    yield start("no", cpu=True)
    torch.compiler.reset()


def attempt(runtime: Runtime, data: Path, out: Path, compiled: bool, stop_after: int | None = None) -> None:
    options = [*OPTIONS, "--runtime.compile", "on" if compiled else "off", "--data", str(data), "--out", str(out)]
    train_in_folder(parse_fit("compiled", options), runtime, StopAfter(stop_after, 0))
    torch.compiler.reset()  # a process that resumes has none of the first one's graphs


def losses(out: Path) -> list[float]:
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_compiled_and_resumed_runs_agree(runtime: Runtime, tiny_shards: Path, tmp_path: Path) -> None:
    attempt(runtime, tiny_shards, tmp_path / "plain", compiled=False)
    attempt(runtime, tiny_shards, tmp_path / "compiled", compiled=True)
    for stop_after in (2, 3, None):  # within the first phase, and within the second
        attempt(runtime, tiny_shards, tmp_path / "resumed", compiled=True, stop_after=stop_after)
    compiled = losses(tmp_path / "compiled")
    assert len(compiled) == 6
    assert compiled == pytest.approx(losses(tmp_path / "plain"), rel=2e-3)
    assert losses(tmp_path / "resumed") == pytest.approx(compiled, rel=1e-5)
    status = json.loads((tmp_path / "resumed" / "status.json").read_text())
    assert status["attempt"] == 3
    trained, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("compiled", "resumed"))
    assert trained.keys() == resumed.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-5)
