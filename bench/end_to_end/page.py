"""The tables: a row for each training, what was asked of it, and what its GPU did meanwhile."""

from collections.abc import Sequence
from typing import NamedTuple

from bench.end_to_end.gpu_samples import FIGURES, Card
from bench.end_to_end.program import Ended
from bench.end_to_end.run_records import PhaseRecord, RunRecord
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
    """Lines of Markdown; the rows have the same phases."""
    phases = [phase.name for phase in rows[0].record.phases]
    kinds = sorted({kind for row in rows for kind in row.record.spent})
    lines = [
        _line("compile", "wall time", ASKED, *phases, *kinds, "most memory of a process", "mean Dice"),
        _rule(5 + len(phases) + len(kinds)),
    ]
    for row in rows:
        times = [_duration(row.record.spent.get(kind)) for kind in kinds]
        memory = f"{row.ended.peak_bytes / 2**30:.1f} GiB"
        trained = map(_phase, row.record.phases)
        wall = format_duration(row.ended.seconds)
        lines.append(_line(row.compile, wall, judge(row, images, size), *trained, *times, memory, _dice(row.record)))
    lines += ["", _line("compile", "GPU", "power limit", *FIGURES.values()), _rule(3 + len(FIGURES))]
    for row in rows:
        lines += [_card(row.compile, card) for card in row.cards] or [
            _line(row.compile, ON_NO_GPU, *("-",) * (1 + len(FIGURES)))
        ]
    notes = [f"- compile {row.compile}: {sentence}" for row in rows for sentence in row.record.compiled]
    return [*lines, *([""] if notes else []), *notes]


def _phase(phase: PhaseRecord) -> str:
    rate = f"{phase.images_per_second:,.0f}" if phase.images_per_second >= 100 else f"{phase.images_per_second:.3g}"
    return f"{rate} images/s for {format_duration(phase.seconds)}, {phase.data_wait:.1%} data wait"


def _dice(record: RunRecord) -> str:
    positive = "none" if record.mean_dice_positive is None else f"{record.mean_dice_positive:.4f}"
    return f"{record.mean_dice:.4f}, all empty {record.mean_dice_all_empty:.4f}, positive {positive}"


def _card(compile: str, card: Card) -> str:
    limit = "-" if card.power_limit is None else f"{card.power_limit:,.0f} W"
    spreads = [card.figures.get(name) for name in FIGURES]
    cells = ["-" if spread is None else f"{spread.median:,.0f} ({spread.maximum:,.0f})" for spread in spreads]
    return _line(compile, f"{card.name}, driver {card.driver}", limit, *cells)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
