"""Which weights are kept because they may be shipped."""

from pathlib import Path

import torch

from steel.config import PhaseConfig
from train.engine.batch_plan import plan_phases
from train.engine.loop_state import LoopState
from train.engine.state import snapshot, write_state
from train.engine.top_checkpoints import TopCheckpoints

(PLAN,) = plan_phases((PhaseConfig("p", epochs=9, crop=(8, 8), batch_size=2, micro_batch=2, lr=1.0),), [2], 1.0)


def offer(store: TopCheckpoints, progress: LoopState, step: int, score: float) -> bool:
    progress.step = step
    return store.offer(PLAN, progress, score, write={"w": torch.tensor([float(step)])})


def test_the_best_are_kept_in_order(tmp_path: Path) -> None:
    store, progress = TopCheckpoints(tmp_path, keep=2), LoopState()
    assert offer(store, progress, 1, 0.5)
    assert offer(store, progress, 2, 0.7)
    assert not offer(store, progress, 3, 0.4)
    assert offer(store, progress, 4, 0.6)
    assert [c.score for c in progress.candidates] == [0.7, 0.6]
    assert store.read(progress.candidates[1])["w"].item() == 4


def test_of_equal_scores_the_later_is_better(tmp_path: Path) -> None:
    store, progress = TopCheckpoints(tmp_path, keep=1), LoopState()
    offer(store, progress, 1, 0.5)
    offer(store, progress, 2, 0.5)
    assert store.read(progress.candidates[0])["w"].item() == 2


def test_pruning_spares_what_a_saved_state_could_still_ship(tmp_path: Path) -> None:
    store, progress = TopCheckpoints(tmp_path / "candidates", keep=1), LoopState()
    offer(store, progress, 1, 0.5)
    write_state(tmp_path / "states", snapshot(progress, {"w": torch.zeros(1)}), keep=2)
    offer(store, progress, 2, 0.6)
    offer(store, progress, 3, 0.7)
    store.prune(tmp_path / "states", progress)
    assert sorted(p.name[7:15] for p in store.folder.iterdir()) == ["00000001", "00000003"]


def test_other_ranks_keep_the_same_books_and_write_nothing(tmp_path: Path) -> None:
    mine, theirs = LoopState(step=1), LoopState(step=1)
    TopCheckpoints(tmp_path / "a", keep=1).offer(PLAN, mine, 0.5, write={"w": torch.zeros(1)})
    TopCheckpoints(tmp_path / "b", keep=1).offer(PLAN, theirs, 0.5, write=None)
    assert mine == theirs
    assert not (tmp_path / "b").exists()
