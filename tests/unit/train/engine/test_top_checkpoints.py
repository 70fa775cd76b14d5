"""Which weights are kept because they may be shipped."""

from pathlib import Path

import pytest
import torch

from steel.errors import InputError
from train.engine.loop_state import LoopState
from train.engine.state import SavedState, top_checkpoint_files, write_state
from train.engine.top_checkpoints import TopCheckpoint, TopCheckpoints


def offer(store: TopCheckpoints, step: int, score: float) -> bool:
    """As the loop and its writer do."""
    offered = TopCheckpoint(score, 0, step, float(step))
    is_kept = store.offer(offered)
    if is_kept:
        store.write(offered, {"w": torch.tensor([float(step)])})
    return is_kept


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_best_are_kept_in_order(tmp_path: Path) -> None:
    store = TopCheckpoints(tmp_path, keep=2)
    assert offer(store, 1, 0.5)
    assert offer(store, 2, 0.7)
    assert not offer(store, 3, 0.4)
    assert offer(store, 4, 0.6)
    assert [kept.score for kept in store.ranked] == [0.7, 0.6]
    assert store.read(store.ranked[1])["w"].item() == 4


def test_of_equal_scores_the_later_is_better(tmp_path: Path) -> None:
    store = TopCheckpoints(tmp_path, keep=1)
    offer(store, 1, 0.5)
    offer(store, 2, 0.5)
    assert store.read(store.ranked[0])["w"].item() == 2


def test_a_validation_made_anew_takes_the_place_of_itself(tmp_path: Path) -> None:
    """As after a kill between a validation and the next state."""
    store = TopCheckpoints(tmp_path, keep=2, ranked=[TopCheckpoint(0.5, 0, 1, 1.0)])
    assert offer(store, 1, 0.5)
    assert [kept.step for kept in store.ranked] == [1]


def test_pruning_spares_what_a_saved_state_could_still_ship(tmp_path: Path) -> None:
    folder, states = tmp_path / "top_checkpoints", tmp_path / "states"
    store = TopCheckpoints(folder, keep=1)
    offer(store, 1, 0.5)
    write_state(states, SavedState(LoopState(step=1), store.ranked, {"w": torch.zeros(1)}), keep=2)
    offer(store, 2, 0.6)
    offer(store, 3, 0.7)
    store.prune(store.ranked, top_checkpoint_files(states))
    assert names_in(folder) == ["000000-00000001.safetensors", "000000-00000003.safetensors"]


def test_ranking_writes_nothing(tmp_path: Path) -> None:
    """All ranks keep the same books; one writes."""
    store = TopCheckpoints(tmp_path / "a", keep=1)
    assert store.offer(TopCheckpoint(0.5, 0, 1, 1.0)) and store.offer(TopCheckpoint(0.6, 0, 2, 2.0))
    assert [kept.step for kept in store.ranked] == [2]
    assert not (tmp_path / "a").exists()


def test_what_cannot_be_read_any_more_is_left_out_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = TopCheckpoints(tmp_path, keep=3)
    for step, score in ((1, 0.5), (2, 0.7), (3, 0.6)):
        offer(store, step, score)
    path = tmp_path / "000000-00000002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    (tmp_path / "000000-00000001.safetensors").unlink()
    assert [kept.step for kept in store.readable()] == [3]
    assert "000000-00000002.safetensors: damaged" in caplog.text and "cannot be shipped" in caplog.text


@pytest.mark.parametrize("place", [{"phase": -1, "step": 0}, {"phase": 0, "step": 1 << 53}])
def test_a_place_that_cannot_be_names_no_file(place: dict[str, int]) -> None:
    with pytest.raises(InputError, match="of a top checkpoint is "):
        TopCheckpoint(score=0.5, epoch=1.0, **place)
