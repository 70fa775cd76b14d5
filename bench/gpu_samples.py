"""Power, clocks, heat and use of GPUs while something runs, once a second, as `nvidia-smi` tells them."""

import os
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

INTERVAL_MS = 1000
FIGURES = {
    "power.draw": "power, W",
    "clocks.sm": "SM clock, MHz",
    "clocks.mem": "memory clock, MHz",
    "temperature.gpu": "temperature, °C",
    "utilization.gpu": "utilisation, %",
    "memory.used": "memory, MiB",
}
"""What is sampled, as `nvidia-smi` calls it, and in words with its unit."""
ABOUT = ("index", "name", "driver_version", "power.limit")
"""What is asked for besides, and stays as it is."""


class Spread(NamedTuple):
    """Of one figure."""

    median: float
    maximum: float


class Card(NamedTuple):
    """A GPU over the time in which it was watched."""

    name: str
    driver: str
    power_limit: float | None
    """Watt; None where the card does not tell."""
    figures: dict[str, Spread]
    """By their name in `FIGURES`; those that the card does not tell are missing."""


@contextmanager
def sampled(samples: Path) -> Iterator[None]:
    """Have `nvidia-smi` write `samples` for as long as the block lasts; an empty file where there is no such program.

    Of the GPUs that CUDA_VISIBLE_DEVICES names, else of all.
    """
    program, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    with samples.open("wb") as file:
        if program is None:
            yield
            return
        query = [f"--query-gpu={','.join((*ABOUT, *FIGURES))}", "--format=csv,noheader,nounits"]
        query += ["-lms", str(INTERVAL_MS), *(("-i", visible) if visible else ())]
        with subprocess.Popen([program, *query], stdout=file, stderr=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.terminate()


def parse_cards(text: str) -> list[Card]:
    """The cards that `sampled` has written of, those that were used most first.

    Lines of another form are passed over: what is said of a missing driver, and a last line that was cut short.
    """
    samples: defaultdict[str, list[list[str]]] = defaultdict(list)
    for line in text.splitlines(keepends=True):
        cells = [cell.strip() for cell in line.split(",")]
        if line.endswith("\n") and len(cells) == len(ABOUT) + len(FIGURES) and cells[0].isdecimal():
            samples[cells[0]].append(cells)
    cards = [_card(rows) for rows in samples.values()]
    return sorted(cards, key=lambda card: card.figures.get("utilization.gpu", Spread(0, 0)), reverse=True)


def in_words(cards: Sequence[Card]) -> str:
    """What a line tells of cards: medians, with the maximum in brackets; `not told` of none."""
    return "; ".join(_in_words(card) for card in cards) or "not told: no nvidia-smi"


def _in_words(card: Card) -> str:
    limit = "no limit told" if card.power_limit is None else f"limit {card.power_limit:g} W"
    told = (f"{FIGURES[name]} {median:g} ({most:g})" for name, (median, most) in card.figures.items())
    return ", ".join([f"{card.name}, driver {card.driver}, {limit}", *told])


def _card(rows: list[list[str]]) -> Card:
    _, name, driver, limit = rows[-1][: len(ABOUT)]
    figures = {}
    for number, figure in enumerate(FIGURES, start=len(ABOUT)):
        known = [value for row in rows if (value := _number(row[number])) is not None]
        if known:
            figures[figure] = Spread(statistics.median(known), max(known))
    return Card(name, driver, _number(limit), figures)


def _number(cell: str) -> float | None:
    """None for `[N/A]`, `[Not Supported]` and the like."""
    try:
        return float(cell)
    except ValueError:
        return None
