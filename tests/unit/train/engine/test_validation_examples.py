"""The pictures of a validation: whichever rank predicts them, rank 0 shows the chosen ones in their order."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from steel.tracking.items import MaskedImages
from train.engine import validation
from train.engine.validation import validation_examples

CHOSEN = [5, 3, 8, 1, 9]


def shown_by(world: int, rows: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> MaskedImages:
    """What rank 0 of so many shows of `rows`; the others, which go before it, show nothing."""
    monkeypatch.setattr(validation, "predictor_of", lambda *_: None)
    monkeypatch.setattr(validation, "choose_examples", lambda *_: list(rows))
    monkeypatch.setattr(validation, "predict_examples", lambda *arguments: [f"image {row}" for row in arguments[-1]])
    sent: list[Any] = []

    def context_of(rank: int) -> Any:
        def gather(value: Any, num_ranks: int) -> list[Any]:
            if rank == 0:
                return [value, *reversed(sent)]
            sent.extend([value][: rank < num_ranks])
            return []

        runtime = SimpleNamespace(rank=rank, world=world, gather_on_main=gather)
        reader = SimpleNamespace(manifest=SimpleNamespace(class_names=("pit",)))
        tracking = SimpleNamespace(num_images=len(rows))
        return SimpleNamespace(
            runtime=runtime,
            reader=reader,
            rows=SimpleNamespace(validation=None),
            config=SimpleNamespace(tracking=tracking),
        )

    result: Any = SimpleNamespace(tuning=SimpleNamespace(decision=None))
    model: Any = None
    for rank in reversed(range(1, world)):
        assert validation_examples(context_of(rank), model, result) is None
    shown = validation_examples(context_of(0), model, result)
    assert shown is not None
    return shown


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("num", [0, 1, 5])
def test_all_are_shown_in_their_order(world: int, num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_by(world, CHOSEN[:num], monkeypatch)
    assert shown.images == [f"image {row}" for row in CHOSEN[:num]]
