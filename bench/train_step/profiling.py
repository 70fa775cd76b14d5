"""Where the time of our step goes: its operations by what they cost the host and the device, and the device's waits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.autograd import DeviceType
from torch.profiler import profile

from bench.made_by import fact_lines

COSTLIEST = 20
"""Operations that a table has, by either time."""
NAME_LENGTH = 100
"""Of an operation; what a kernel was made of can be longer."""
LEAST_WAIT_US = 5.0
"""Shorter waits are those between any two kernels."""
NOTES = """Made by `python -m bench.train_step --profile`. Times are of a step, and what the profiler costs is in them:
a host that is busy with many short operations looks slower than it is. An operation's time leaves out that of the
operations which it calls; the host's is that of the thread that calls it, the device's that of the kernels that it
starts. Shares are of the step's time."""


class Interval(NamedTuple):
    """In which the device was busy; microseconds."""

    start: float
    end: float
    name: str


def summary(profiler: profile, steps: int, seconds: float, waited: float) -> dict[str, Any]:
    """What was seen, as plain values; milliseconds of a step.

    Args:
        profiler: that has seen the steps.
        steps: how many.
        seconds: that they took.
        waited: of these, in which the host waited for data.
    """
    averages = [each for each in profiler.key_averages() if not each.is_user_annotation]
    scale = 1 / (1000 * steps)
    host = [each for each in averages if each.device_type == DeviceType.CPU]
    device = [each for each in averages if each.device_type == DeviceType.CUDA]
    busy = [
        Interval(event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events() or []
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    busy_us, waits = busy_and_waits(busy)
    return {
        "step_ms": 1000 * seconds / steps,
        "steps": steps,
        "data_ms": 1000 * waited / steps,
        "operations": [
            (each.key, each.count / steps, each.self_cpu_time_total * scale, each.self_device_time_total * scale)
            for each in host
        ],
        "kernels": [(each.key, each.count / steps, each.self_device_time_total * scale) for each in device],
        "busy_ms": busy_us * scale if busy else None,
        "waits": [(name, number / steps, time * scale) for name, (number, time) in waits.items()],
    }


def busy_and_waits(busy: Iterable[Interval]) -> tuple[float, dict[str, tuple[int, float]]]:
    """Microseconds in which the device did something; the waits between by what ended them: how many, microseconds."""
    total, free_from = 0.0, None
    waits: dict[str, tuple[int, float]] = {}
    for start, end, name in sorted(busy):
        if free_from is not None and start - free_from >= LEAST_WAIT_US:
            number, time = waits.get(name, (0, 0.0))
            waits[name] = number + 1, time + start - free_from
        begun = start if free_from is None else max(start, free_from)
        total += max(0.0, end - begun)
        free_from = end if free_from is None else max(end, free_from)
    return total, waits


def write_profiles(path: Path, found: Sequence[tuple[str, dict[str, Any]]], facts: Mapping[str, object]) -> None:
    """A section for each row: its title and its `summary`."""
    lines = ["# Where a training step's time goes", "", NOTES, "", *fact_lines(facts)]
    for title, figures in found:
        lines += ["", f"## {title}", "", *_section(figures)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(figures: dict[str, Any]) -> Iterator[str]:
    step, busy, operations = figures["step_ms"], figures["busy_ms"], figures["operations"]
    outside = step - figures["data_ms"] - sum(host for _, _, host, _ in operations)
    yield f"- a step: {step:,.2f} ms, mean of {figures['steps']}"
    yield f"- the host waits for data: {_cost(figures['data_ms'], step)}"
    yield f"- the host is outside of operations, in Python most of all: {_cost(max(0.0, outside), step)}"
    if busy is None:
        yield "- the device waits for the host: *not measured* without a GPU"
        yield from _table(("operation", "times", "host"), [row[:3] for row in operations], step)
        return
    yield f"- the device is busy: {_cost(busy, step)}"
    yield f"- the device waits for the host: {_cost(step - busy, step)}"
    yield from _table(("operation", "times", "host", "device"), operations, step)
    yield from _table(("kernel", "times", "device"), figures["kernels"], step)
    yield from _table(("the device waits for this kernel", "times", "wait"), figures["waits"], step)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], step: float) -> Iterator[str]:
    """The costliest of `rows`, each of a name, a number and milliseconds; in a step, as the head has them."""
    yield from ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, count, *costs in sorted(rows, key=lambda row: -max(row[2:]))[:COSTLIEST]:
        cells = [f"`{name[:NAME_LENGTH]}`".replace("|", "\\|"), f"{count:,.0f}", *(_cost(cost, step) for cost in costs)]
        yield f"| {' | '.join(cells)} |"


def _cost(milliseconds: float, step: float) -> str:
    return f"{milliseconds:,.2f} ms, {milliseconds / step:.1%}"
