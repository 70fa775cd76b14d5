"""The plain loop that ours is compared with sees as many images as it is said to."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bench.quality import baseline
from bench.quality.baseline import train_plain
from tests.shard_folder import small_shards


@pytest.mark.parametrize(("batch_size", "steps"), [(2, 11), (8, 3)])
def test_no_pass_loses_its_last_batch(
    tmp_path: Path, batch_size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 14 images 7 are in the folds that train: three passes are 21 images, and a batch has as many as any other."""
    taken: dict[str, Any] = {}

    def optimise(model: Any, batches: Any, inputs: Any, *, steps: int, lr: float) -> None:
        taken.update(steps=steps, sizes=[len(images) for images, _ in islice(batches, steps)])

    monkeypatch.setattr(baseline, "_optimise", optimise)
    data = small_shards(tmp_path / "shards")
    options: dict[str, Any] = {"encoder": "tu-test_resnet", "decoder": (8,) * 5, "crop": (32, 32), "seed": 0}
    options |= {"passes": 3, "batch_size": batch_size, "held_out": (0,)}
    train_plain(tmp_path / "plain", data, **options)
    assert taken == {"steps": steps, "sizes": [batch_size] * steps}


def test_each_image_is_seen_once_a_pass() -> None:
    order = list(islice(baseline._shuffled_passes(7, seed=3), 21))
    assert Counter(order) == dict.fromkeys(range(7), 3)
    assert all(set(order[first : first + 7]) == set(range(7)) for first in (0, 7, 14))
