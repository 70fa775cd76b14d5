"""The tables: a row for each training, what was asked of it, and what its GPU did meanwhile."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.end_to_end.program import Ended
from bench.end_to_end.run_records import PhaseRecord, RunRecord
from bench.gpu_samples import FIGURES, Card
from train.live_line import format_duration
from train.presets import SEVERSTAL

NUM_IMAGES, SIZE = 12_568, (256, 1600)
"""Kaggle's training images, and their height and width."""
MOST_SECONDS = 15 * 60
"""Of a full training."""
CARDS = ("H100", "H200")
ASKED = f"under {MOST_SECONDS // 60} minutes on one {' or '.join(CARDS)}"
ON_NO_GPU = "not measured on a GPU"


class Row(NamedTuple):
    """A training with `--runtime.compile` as named."""

    compile: str
    ended: Ended
    record: RunRecord
    cards: Sequence[Card]
    """Those that it ran on; none where that is not known, or on a CPU."""


def judge(row: Row, images: int, size: tuple[int, int]) -> str:
    """Whether a full training was as fast as it is to be: `reached` or `**missed**`, else why that cannot be said.

    Args:
        row: of the training.
        images: that there were, whatever their role.
        size: of theirs.
    """
    if not row.record.device.startswith("cuda"):
        return ON_NO_GPU
    full = [(phase.epochs, phase.crop) for phase in SEVERSTAL.phases]
    names = [card.name for card in row.cards]
    reasons = {
        f"{images:,} images of {size[0]}x{size[1]}": (images, size) == (NUM_IMAGES, SIZE),
        "other phases": [(phase.epochs, phase.crop) for phase in row.record.phases] == full,
        f"{row.record.processes} GPUs": row.record.processes == 1,
        ", ".join(names) or "no nvidia-smi names the card": any(card in name for card in CARDS for name in names),
    }
    others = [reason for reason, is_as_asked in reasons.items() if not is_as_asked]
    if others:
        return f"not judged: {'; '.join(others)}"
    return "reached" if row.ended.seconds < MOST_SECONDS else "**missed**"


def tables(rows: Sequence[Row], images: int, size: tuple[int, int]) -> list[str]:
    """Lines of Markdown: medians over the rows that were compiled alike. All rows have the same phases."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(row.compile, []).append(row)
    phases = [phase.name for phase in rows[0].record.phases]
    kinds = sorted({kind for row in rows for kind in row.record.spent})
    lines = [
        _line("compile", "wall time", ASKED, *phases, *kinds, "most memory of a process", "mean Dice"),
        _rule(5 + len(phases) + len(kinds)),
    ]
    for compile, group in alike.items():
        seconds = [row.ended.seconds for row in group]
        typical = group[0]._replace(ended=group[0].ended._replace(seconds=statistics.median(seconds)))
        trained = [_phase([row.record.phases[number] for row in group]) for number in range(len(phases))]
        times = [_spread([row.record.spent.get(kind, 0) for row in group], _duration) for kind in kinds]
        memory = _spread([row.ended.peak_bytes / 2**30 for row in group], "{:.1f}".format)
        judged, dice = judge(typical, images, size), _dice([row.record for row in group])
        lines.append(_line(compile, _spread(seconds, _duration), judged, *trained, *times, f"{memory} GiB", dice))
    lines += ["", _line("compile", "GPU", "power limit", *FIGURES.values()), _rule(3 + len(FIGURES))]
    lines += [_card(row.compile, card) for row in rows for card in row.cards]
    unseen = [compile for compile, group in alike.items() if not any(row.cards for row in group)]
    lines += [_line(compile, ON_NO_GPU, *("-",) * (1 + len(FIGURES))) for compile in unseen]
    notes = [f"- compile {row.compile}: {sentence}" for row in rows for sentence in row.record.compiled]
    return [*lines, *([""] if notes else []), *notes]


def _phase(phases: Sequence[PhaseRecord]) -> str:
    """Of one phase of several trainings."""
    rate = _spread([phase.images_per_second for phase in phases], lambda x: f"{x:,.0f}" if x >= 100 else f"{x:.3g}")
    seconds = _spread([phase.seconds for phase in phases], _duration)
    return f"{rate} images/s for {seconds}, {statistics.median(phase.data_wait for phase in phases):.1%} data wait"


def _spread(values: Sequence[float], told: Callable[[float], str]) -> str:
    """The median with the smallest and the largest; where all are told alike, that."""
    median, *ends = map(told, (statistics.median(values), min(values), max(values)))
    return median if {*ends} == {median} else f"{median} ({' to '.join(ends)})"


def _dice(records: Sequence[RunRecord]) -> str:
    """Of trainings of one seed on the same images."""
    mean = _spread([record.mean_dice for record in records], "{:.4f}".format)
    known = [each.mean_dice_positive for each in records if each.mean_dice_positive is not None]
    positive = _spread(known, "{:.4f}".format) if known else "none"
    return f"{mean}, all empty {records[0].mean_dice_all_empty:.4f}, positive {positive}"


def _card(compile: str, card: Card) -> str:
    limit = "-" if card.power_limit is None else f"{card.power_limit:,.0f} W"
    spreads = [card.figures.get(name) for name in FIGURES]
    cells = ["-" if spread is None else f"{spread.median:,.0f} ({spread.maximum:,.0f})" for spread in spreads]
    return _line(compile, f"{card.name}, driver {card.driver}", limit, *cells)


def _duration(seconds: float) -> str:
    return format_duration(seconds) if seconds else "-"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
