"""A saved state that is whole, and of another run."""

from pathlib import Path

import pytest
import torch

from steel.errors import InputError
from steel.pretrained.stem import Normalisation
from steel.shards.format import Manifest
from tests.numerics.quick import quicken
from train.arguments import parse_fit
from train.engine.loop_state import LoopState
from train.engine.run_folder import RunFolder
from train.engine.state import SavedState, write_state
from train.engine.weight_initialisation import FirstWeights
from train.fit import main

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (LoopState(step=1), "its newest state does not fit this network"),
        (LoopState(phase=9), "holds a state saved at phase 9, step 0, which this run does not have"),
        (LoopState(step=10**6), "holds a state saved at phase 0, step 1000000, which this run"),
    ],
)
def test_a_state_of_another_run_is_one_line(
    state: LoopState, message: str, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(monkeypatch)
    line = ["--preset", "smoke", "--tracking.tracker", "none", "--runtime.workers", "0", "--runtime.precision", "no"]
    line += ["--data", str(tiny_shards), "--out", str(tmp_path)]
    folder = RunFolder(tmp_path)
    folder.open(parse_fit("train.fit", line).config, Manifest.load(str(tiny_shards)).digest, "auto")
    folder.keep_first_weights(FirstWeights(None, Normalisation((0.5,), (0.2,))))
    folder.end("interrupted")
    folder.release()
    write_state(folder.states, SavedState(state, (), {"model.weight": torch.ones(3)}), keep=1)
    with pytest.raises(InputError, match=message) as caught:
        main(line)
    assert len(str(caught.value).splitlines()) == 1
