"""Reads figures out of the sections of `bench/quality`, for tests of documents that quote them."""

import re

from tests.paths import ROOT

HALF, TUNED, UNGATED = "threshold 0.5", "threshold tuning and TTA", "threshold tuning and TTA, no gate"
PLAIN, ON_ALL = "plain loop", "plain loop on the validation images, too"


def cell_of(section: str, column: str, row: str, *more: str) -> str:
    """Of the table that has such a column, in the row by its first cell, and by the next ones where it stands for
    several."""
    found: list[str] = []
    header: list[str] = []
    for line in (ROOT / "bench" / "quality" / "sections" / f"{section}.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            header = []
        elif not header:
            header = [cell.partition(" (")[0] for cell in cells]
        elif column in header and cells[: 1 + len(more)] == [row, *more]:
            found.append(cells[header.index(column)])
    (one,) = found
    return one


def numbers_in(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"[-+]?\d+\.?\d*", text)]


def mean_of(section: str, side: str, how: str, measure: str) -> float:
    """Over seeds, of a side under a kind of thresholds."""
    return numbers_in(cell_of(section, measure, f"{side}, {how}"))[0]


def pair_of(section: str, how: str, measure: str) -> tuple[float, float]:
    """Of auto and of the plain loop."""
    return mean_of(section, "auto", how, measure), mean_of(section, PLAIN, how, measure)


def gain_of(section: str, label: str, measure: str) -> tuple[float, float, float]:
    """Of auto over a side, in points: the mean and the ends of its interval over seeds."""
    (mean,), (low, high) = (
        numbers_in(cell_of(section, column, label, measure)) for column in ("points", "95 % over seeds")
    )
    return mean, low, high


def seeds_in_words(section: str) -> str:
    """In words."""
    each = numbers_in(cell_of(section, "mean IoU", f"auto, {HALF}"))[1:]
    return {3: "three", 5: "five"}[len(each)]


def times_as_long(section: str) -> float:
    """How many times as long as the plain loop's auto's trainings took, of processor time."""
    column = "processor seconds to train"
    sides = (numbers_in(cell_of(section, column, f"{side}, {HALF}")) for side in ("auto", PLAIN))
    ours, theirs = (sum(seconds) / len(seconds) for seconds in sides)
    return ours / theirs


def times_worse(rule: str, *sections: str) -> tuple[float, float]:
    """Of tuning by a rule: how often it was worse, of how many draws of all networks."""
    worse = draws = 0.0
    for section in sections:
        text = (ROOT / "bench" / "quality" / "sections" / f"{section}.md").read_text()
        (times,) = set(re.findall(r"[;,] (?:drawn )?(\d+) times", text))
        rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if f"| {rule} |" in line]
        worse, draws = worse + sum(float(row[9]) for row in rows), draws + len(rows) * int(times)
    return worse, draws
