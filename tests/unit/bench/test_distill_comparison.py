"""The teacher of `bench.quality distill`."""

from pathlib import Path

import pytest

from bench.quality.distill import _pack
from bench.quality.trial import Trial
from steel.checkpoint import load_checkpoint, save_checkpoint
from steel.errors import InputError
from tests.random_members import make_member


def trial_of(folder: Path, seed: int) -> Trial:
    """A training that has ended."""
    folder.mkdir()
    trial = Trial(folder)
    save_checkpoint(trial.checkpoint, make_member(seed))
    trial.finish(1.0, 2.0)
    return trial


def test_an_ensemble_is_packed_once_and_is_of_its_members(tmp_path: Path) -> None:
    first, second, other = (trial_of(tmp_path / str(seed), seed) for seed in range(3))
    packed = _pack([first, second], tmp_path / "ensemble")
    assert load_checkpoint(str(packed.checkpoint)).members == 2
    assert packed.processor_seconds == 4.0
    before = packed.checkpoint.stat().st_mtime_ns
    assert _pack([first, second], tmp_path / "ensemble").checkpoint.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="was asked for otherwise"):
        _pack([first, other], tmp_path / "ensemble")
