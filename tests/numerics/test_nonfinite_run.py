"""A sample that poisons the loss: its steps are skipped and counted, and too many in a row end the run, naming it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import train.engine.loop
import train.engine.micro_batch_losses
import train.engine.model_selection
from steel.checkpoint import read_header
from steel.errors import InputError
from steel.shards.reader import ShardReader
from tests.numerics.quick import quicken
from train.engine.step import TrainingState
from train.fit import main

OPTIONS = (
    "--preset smoke --phases.0.epochs 1 --phases.1.epochs 0.1 --phases.0.batch-size 2 --phases.0.micro-batch 1 "
    "--tracking.log-every 1 --tracking.tracker none --runtime.workers 0 --runtime.precision no --validation.tta"
).split()
"""5 steps of 2 of the 9 training samples each, then one."""


@pytest.fixture
def poisoned(tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The row of a training sample whose loss is NaN, as after an overflow inside the network."""
    torch.set_num_threads(1)
    quicken(monkeypatch)
    victim = int(ShardReader(str(tiny_shards)).index.rows([2])[4])
    rows = torch.full((1,), -1)  # before the first step: of no sample
    compute, losses = TrainingState._micro_step, train.engine.micro_batch_losses.head_losses

    def noting(self: TrainingState, plan: Any, step: int, batch: Any, *, last: bool) -> Any:
        nonlocal rows
        rows = batch.rows
        return compute(self, plan, step, batch, last=last)

    def poisoning(*arguments: Any) -> dict[str, torch.Tensor]:
        poison = torch.where(rows == victim, torch.nan, 0.0)[:, None]  # gradients stay finite
        return {head: loss + poison for head, loss in losses(*arguments).items()}

    monkeypatch.setattr(TrainingState, "_micro_step", noting)
    monkeypatch.setattr("train.engine.micro_batch_losses.head_losses", poisoning)
    return victim


@pytest.mark.usefixtures("poisoned")
def test_its_steps_are_skipped_and_counted(tiny_shards: Path, tmp_path: Path) -> None:
    assert main([*OPTIONS, "--data", str(tiny_shards), "--out", str(tmp_path)]) == 0
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train" and record["phase"] == 0]
    assert len(steps) == 5
    skipped = [record for record in steps if record["loss"] is None]
    # 9 samples in 5 steps of 2: one sample, perhaps the victim, is seen twice.
    assert 1 <= len(skipped) <= 2 and steps[-1]["nonfinite_steps"] == len(skipped)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "finished"


def test_too_many_end_the_run_and_name_the_sample(poisoned: int, tiny_shards: Path, tmp_path: Path) -> None:
    line = [*OPTIONS, "--optim.nonfinite-limit", "1", "--data", str(tiny_shards), "--out", str(tmp_path)]
    with pytest.raises(InputError, match=r"1 steps in a row .* nonfinite\.json"):
        main(line)
    index, named = ShardReader(str(tiny_shards)).index, tmp_path / "nonfinite.json"
    victim, other = ({"row": row, "image_id": index.image_id(row)} for row in (poisoned, (poisoned + 1) % len(index)))
    assert json.loads(named.read_text()) == [victim]
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed" and "non-finite" in status["reason"]

    # As an attempt before would have that met another one; and one on other shards, before any state was there.
    strange = [{"row": len(index), "image_id": "a.png"}, {"row": other["row"], "image_id": "b.png"}]
    named.write_text(json.dumps([other, *strange]))
    with pytest.raises(InputError, match=r"1 steps in a row .* nonfinite\.json"):
        main(line)
    assert json.loads(named.read_text()) == sorted([victim, other], key=lambda one: one["row"])


@pytest.mark.parametrize(
    ("stopping", "steps"),
    [([], 6), (["--validation.every-epochs", "0.4", "--validation.patience", "1"], 5)],
    ids=["to the end", "stopped early"],
)
def test_a_run_that_skipped_every_step_ships_nothing(
    stopping: list[str], steps: int, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)
    losses = train.engine.micro_batch_losses.head_losses
    monkeypatch.setattr(
        "train.engine.micro_batch_losses.head_losses",
        lambda *given: {head: torch.nan * loss for head, loss in losses(*given).items()},
    )
    line = [*OPTIONS, *stopping, "--data", str(tiny_shards), "--out", str(tmp_path)]
    with pytest.raises(InputError, match=rf"none of {steps} steps had a finite loss and gradient.* nonfinite\.json"):
        main(line)
    suspects = (tmp_path / "nonfinite.json").read_text()
    assert len(json.loads(suspects)) >= 8  # every sample that was trained on
    with pytest.raises(InputError, match=rf"none of {steps} steps"):
        main(line)  # from the state at the end, with no step that it could tell of
    assert (tmp_path / "nonfinite.json").read_text() == suspects
    assert not (tmp_path / "model.safetensors").exists()


def poison_validations(monkeypatch: pytest.MonkeyPatch, module: Any, poisoned: int) -> None:
    """Put a NaN into the weights that the first validations of a module judge."""
    validate, calls = module.validate, iter(range(100))

    def poisoning(context: Any, model: Any, tta: Any, **rest: Any) -> Any:
        model = copy.deepcopy(model)
        if next(calls) < poisoned:
            model.segmentation_head[0].bias.data[0] = torch.nan
        return validate(context, model, tta, **rest)

    monkeypatch.setattr(module, "validate", poisoning)


def test_a_validation_that_says_nothing_has_no_score_and_the_training_goes_on(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of two; and of what may be shipped, the first."""
    torch.set_num_threads(1)
    quicken(monkeypatch)
    poison_validations(monkeypatch, train.engine.loop, 1)
    poison_validations(monkeypatch, train.engine.model_selection, 1)
    assert main([*OPTIONS, "--data", str(tiny_shards), "--out", str(tmp_path)]) == 0
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [record["phase"] for record in records if record["kind"] == "validation"] == [1]
    lines = [line for line in capsys.readouterr().err.splitlines() if "the network's answer is not finite" in line]
    assert len(lines) == 2
    assert lines[0].startswith("validation after 1.1 epochs of phase ") and "not kept" in lines[0]
    name = lines[1].removeprefix("the ").partition(":")[0]
    told = read_header(tmp_path / "model.safetensors")["provenance"]
    assert told["candidates"] and name not in told["candidates"]


def test_a_run_none_of_whose_weights_say_anything_ships_nothing(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)
    for module in (train.engine.loop, train.engine.model_selection):
        poison_validations(monkeypatch, module, 100)
    with pytest.raises(InputError, match="no weights answer every validation image with finite numbers"):
        main([*OPTIONS, "--data", str(tiny_shards), "--out", str(tmp_path)])
    assert not (tmp_path / "model.safetensors").exists()
