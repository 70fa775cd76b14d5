"""What a run is made ready with: here, how its micro-batches come to the device."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steel.config import FoldsConfig
from steel.errors import SharedError
from steel.pretrained.stem import Normalisation
from steel.shards.reader import ShardReader
from tests.numerics.one_step import config_of
from tests.shard_folder import small_shards
from train import preparation
from train.engine.data import split_rows
from train.live_line import LiveLine


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_training_takes_micro_batches_from_the_memory_that_the_workers_fill(
    device: str, pinned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pinned where it is, once: no copy of any in this process."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(preparation, "train_batches", lambda *given, **options: asked.update(options))
    reader = ShardReader(small_shards(tmp_path / "shards", 9))
    config = replace(config_of(), folds=FoldsConfig(validation=(0,), test=()))
    runtime = SimpleNamespace(rank=0, world=1, cores=1.0, device=torch.device(device))
    rows = split_rows(reader, config.folds)
    first = SimpleNamespace(inputs=Normalisation((0.5,), (0.2,)))
    context, samplers = preparation.plan_run(config, runtime, reader, rows, first, LiveLine(shown=False))  # type: ignore[arg-type]
    preparation.load_micro_batches(context, samplers, context.plans[0], 0)
    assert (asked["pin_memory"], asked["pin_in_place"]) == (pinned, True)


@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (0.5, 1), (1, 2), (2, 4), (3, 4), (100, 4)])
def test_the_encoder_is_frozen_in_the_first_phase_alone(epochs: float, steps: int) -> None:
    """Two epochs of nine samples in batches of four; what is asked beyond them is not taken from the next phase."""
    first: Any = SimpleNamespace(steps=4, epoch_length=9, phase=SimpleNamespace(batch_size=4))
    assert preparation.frozen_steps(epochs, first) == steps


def test_what_no_rank_can_train_is_found_alike_by_all(tmp_path: Path) -> None:
    reader = ShardReader(small_shards(tmp_path / "shards", 9))
    config = replace(config_of(), folds=FoldsConfig(validation=(0,), test=()))
    first = config.phases[0]
    weighted = replace(first, loss=replace(first.loss, class_weights=(1.0,) * 5))
    with pytest.raises(SharedError, match=r"loss\.class-weights: 5 weights for"):
        preparation.network_for(replace(config, phases=(weighted,)), reader.manifest)
    windowed = replace(first, sampling=replace(first.sampling, window_shards=1, paste=0.5))
    runtime = SimpleNamespace(rank=1, world=2)
    given = (runtime, reader, split_rows(reader, config.folds), SimpleNamespace(), LiveLine(shown=False))
    with pytest.raises(SharedError, match="windows need paste 0"):
        preparation.plan_run(replace(config, phases=(windowed,)), *given)  # type: ignore[arg-type]
