"""No rank waits for what rank 0 does alone: compute scores, write to a slow disk, tell a slow tracker of figures and
pictures."""

import json
from pathlib import Path

from tests.distributed.launching import TINY, run_script

OPTIONS = (
    *TINY,
    *"--phases.0.epochs 7 --phases.0.crop 32 64 --phases.1.epochs 0.1 --validation.every-epochs 3".split(),
    *"--tracking.tracker held --model.encoder tu-test_resnet --model.decoder-channels 8 8".split(),
)
"""8 steps of a first phase, validated after the fourth, the seventh and the last; and one of the second."""
STEPS = 9


def test_no_rank_waits_for_scores_a_line_or_a_tracker(tiny_shards: Path, tmp_path: Path) -> None:
    """The other rank goes on training while a call of rank 0 lasts; and nothing of what was held is lost."""
    out = tmp_path / "run"
    script = "tests/distributed/programs/held_records_fit.py"
    done = run_script(2, script, tmp_path, *OPTIONS, "--data", tiny_shards, "--out", out)
    assert sorted((tmp_path / "held").read_text().splitlines()) == [
        "figures of a step: came",
        "figures of a validation: came",
        "line of a train: came",
        "line of a validation: came",
        "pictures: came",
        "scores of a validation: came",
    ]
    shares = [(tmp_path / f"pictures-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert shares == [["2"] * 4, ["2"] * 4]  # of four pictures of each validation
    assert (out / "pictures").read_text().splitlines() == ["4"] * 4
    assert (tmp_path / "steps").stat().st_size == STEPS
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [r["global_step"] for r in records if r["kind"] == "train"] == list(range(1, STEPS + 1))
    assert len([r for r in records if r["kind"] == "validation"]) == 4
    assert [int(line) for line in (out / "tracked").read_text().splitlines()] == [r["global_step"] for r in records]
    assert "did not take" not in done.stderr
