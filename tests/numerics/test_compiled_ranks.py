"""The compiled step on two gloo ranks, launched as users do: the same weights on both, sums under way during backward.

Against one compiled process and two ranks without a graph, losses agree to what the documentation of
`--runtime.compile` allows, and so do the weights. Of the buckets that DDP sums gradients in, there is but one in the
first step of a run; from the second on, the first bucket's sum begins before the last part of the backward pass does.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import TINY, run
from tests.distributed.programs.watched_fit import BACKWARD, SUM

OPTIONS = (
    *TINY,
    *"--phases.0.epochs 1.5 --phases.0.crop 32 64 --phases.1.epochs 0.7 --phases.1.crop 32 96".split(),
    *"--phases.0.batch-size 4 --phases.0.micro-batch 1 --phases.1.batch-size 4 --phases.1.micro-batch 1".split(),
    *"--model.encoder tu-test_resnet --model.decoder-channels 192 96".split(),
)
"""4 steps, then 2, of 4 micro-batches. The network's 2.8 MB are more than DDP's first bucket, of 1 MiB; of its few
layers a graph is made soon."""
STEPS = [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
SAME = 2e-3
"""Of losses, relative; see `steel.config.RuntimeConfig.compile`."""


def train(data: Path, work: Path, world: int, compile: str, compiler: str) -> Path:
    """A run folder, and beside it what each rank has noted."""
    name = f"{world}-{compile}"
    (work / f"{name}-seen").mkdir()
    line = [compiler, work / f"{name}-seen", *OPTIONS, "--runtime.compile", compile]
    run(world, "tests.distributed.programs.watched_fit", *line, "--data", data, "--out", work / name)
    return work / name


def seen_by(rank: int, out: Path) -> list[dict[str, Any]]:
    lines = (out.with_name(f"{out.name}-seen") / f"rank{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def check_ranks(out: Path, num_backward: int) -> None:
    """Both hold the same after each step, and sum the first gradients while others are computed.

    Args:
        out: the run of two ranks, compiled.
        num_backward: pieces of a rank's backward pass in a step.
    """
    first, second = seen_by(0, out), seen_by(1, out)
    digests = [step["digest"] for step in first]
    assert digests == [step["digest"] for step in second]
    assert len(set(digests)) == len(STEPS)
    for rank in (first, second):
        assert [step["place"] for step in rank] == STEPS
        assert all(step["is_compiled"] for step in rank)
        for step in rank:
            events = step["events"]
            assert events.count(BACKWARD) == num_backward
            last = len(events) - 1 - events[::-1].index(BACKWARD)
            if step["place"] != [0, 0]:
                assert SUM in events[:last], (step["place"], events)
                # Nothing is summed before the last of two micro-batches.
                assert events.index(SUM) > num_backward // 2


def test_gradients_are_summed_during_the_compiled_backward_pass(tiny_shards: Path, tmp_path: Path) -> None:
    """Of the graphs before code is generated for them: a micro-batch has two, cut where the second bucket begins."""
    check_ranks(train(tiny_shards, tmp_path, 2, "on", "aot_eager"), num_backward=2 * 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_two_compiled_ranks_agree_with_one_and_with_two_that_are_not(tiny_shards: Path, tmp_path: Path) -> None:
    found = train(tiny_shards, tmp_path, 2, "on", "inductor")
    check_ranks(found, num_backward=2 * 2)
    for world, compile in ((1, "on"), (2, "off")):
        expected = train(tiny_shards, tmp_path, world, compile, "inductor")
        seen = seen_by(0, expected)
        assert [step["is_compiled"] for step in seen] == [compile == "on"] * len(STEPS)
        if compile == "on":  # four micro-batches, each with one graph
            assert [step["events"] for step in seen] == [[BACKWARD] * 4] * len(STEPS)
        losses = losses_of(expected)
        assert len(losses) == len(STEPS)
        assert losses_of(found) == pytest.approx(losses, rel=SAME)
        assert distance(tensors_of(found), tensors_of(expected)) < SAME, (world, compile)


def losses_of(out: Path) -> list[float]:
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    """Weights, their average and running statistics at the end of training."""
    tensors = load_file(max((out / "states").iterdir()) / "tensors.safetensors")
    return {name: t.double() for name, t in tensors.items() if name.startswith(("model.", "average."))}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Of all taken together, as a share of their norm: Adam turns the sign of a gradient near 0 into a whole step."""
    assert ours.keys() == theirs.keys()
    one, other = (torch.cat([tensors[name].flatten() for name in sorted(tensors)]) for tensors in (ours, theirs))
    return float((one - other).norm() / other.norm())
