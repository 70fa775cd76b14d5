"""20 steps of a small model give the recorded losses: only a deliberate change of the recipe may change them.

After such a change:  UPDATE_GOLDEN=1 .venv/bin/pytest tests/numerics/test_golden.py     and commit golden_losses.json
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.numerics.quick import quicken
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.fit import main

GOLDEN = Path(__file__).with_name("golden_losses.json")
TOLERANCE = 2e-3
"""CPUs differ in the last bits of a convolution, and training makes them grow: by up to 5e-4 in these steps."""
OPTIONS = (
    "--preset smoke --phases.0.epochs 12 --phases.1.epochs 4 --phases.0.lr 2e-4 --phases.1.lr 5e-5 "
    "--validation.every-epochs 100 --tracking.log-every 1 --tracking.tracker none --runtime.workers 0 "
    "--runtime.precision no --validation.tta"
).split()
"""15 steps of the first phase and 5 of the second."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_losses_are_the_recorded_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)
    numbers = range(30)
    images, masks = [steel_image(n, 48, 96) for n in numbers], [defect_mask(n, 48, 96, 4) for n in numbers]
    shards = make_shards(tmp_path / "shards", images, masks, num_classes=4, folds=3)
    assert main([*OPTIONS, "--data", str(shards), "--out", str(tmp_path / "run")]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    losses = [
        {name: record[name] for name in ("loss_segmentation", "loss_classification")}
        for record in records
        if record["kind"] == "train"
    ]
    assert len(losses) == 20
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for step, (found, expected) in enumerate(zip(losses, golden, strict=True)):
        assert found == pytest.approx(expected, rel=TOLERANCE), f"step {step}; see the head of {Path(__file__).name}"
