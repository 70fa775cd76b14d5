"""The profile of a step: what was costliest, and when the device had nothing to do."""

from pathlib import Path

import torch

from bench.train_step import ours
from bench.train_step.profiling import Interval, busy_and_waits, write_profiles


def test_waits_are_where_no_kernel_runs() -> None:
    """Kernels of several streams overlap, and some gap stands between any two."""
    busy = [Interval(100, 110, "b"), Interval(0, 50, "a"), Interval(20, 40, "c"), Interval(53, 60, "b")]
    assert busy_and_waits(busy) == (67, {"b": (1, 40)})
    assert busy_and_waits([]) == (0, {})


def test_a_profile_on_a_cpu_accounts_for_the_step(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        tiny = {"encoder": "tu-test_resnet", "height": 32, "width": 64, "batch": 4, "micro": 2, "threads": 1}
        found = ours.profiled(**tiny, steps=2)
    finally:
        torch.set_num_threads(threads)
    times = {name: (count, host) for name, count, host, _ in found["operations"]}
    forward, backward = times["aten::mkldnn_convolution"], times["aten::convolution_backward"]
    assert forward[0] >= 2 and forward[0] == int(forward[0]) and backward[1] > 0  # of each micro-batch of a step
    assert 0.1 * found["step_ms"] < sum(host for _, host in times.values()) <= 1.01 * found["step_ms"]
    assert found["busy_ms"] is None

    write_profiles(tmp_path / "profile.md", [("a row", found)], {"priority": "nice 0"})
    text = (tmp_path / "profile.md").read_text()
    assert "## a row" in text and "| operation | times | host |" in text and "`aten::convolution_backward`" in text
    assert "waits for the host: *not measured*" in text


def test_a_profile_on_a_gpu_has_its_kernels_and_waits(tmp_path: Path) -> None:
    found = {
        "step_ms": 10.0,
        "steps": 5,
        "data_ms": 0.5,
        "operations": [("aten::add", 3.0, 1.0, 2.5), ("aten::conv", 2.0, 2.0, 5.0)],
        "kernels": [("k<a|b>" + 200 * "x", 2.0, 5.0)],
        "busy_ms": 7.5,
        "waits": [("k", 4.0, 2.5)],
    }
    write_profiles(tmp_path / "profile.md", [("a row", found)], {})
    lines = (tmp_path / "profile.md").read_text().splitlines()
    assert "- the host is outside of operations, in Python most of all: 6.50 ms, 65.0%" in lines
    assert "- the device waits for the host: 2.50 ms, 25.0%" in lines
    assert lines.index("| `aten::conv` | 2 | 2.00 ms, 20.0% | 5.00 ms, 50.0% |") < lines.index(
        "| `aten::add` | 3 | 1.00 ms, 10.0% | 2.50 ms, 25.0% |"
    )
    (kernel,) = [line for line in lines if "k<a" in line]
    assert "k<a\\|b>" in kernel and len(kernel) < 140
    assert "| `k` | 4 | 2.50 ms, 25.0% |" in lines
