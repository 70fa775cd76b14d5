"""The classic pipelines as gates of one model, side by side.

`none` is segmentation alone; `binary` puts a binary classifier first, `class` a multi-label classifier, `binary+class`
both; `soft` lets the classifier scale the area that is needed. Each is tuned for itself; where the images that judge
are those it was tuned on, as right after tuning, all look better than they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steel.decision import Decision
from steel.metrics.bootstrap import Interval, bootstrap, bootstrap_difference
from steel.metrics.scores import Scores, decide, score
from steel.metrics.statistics import EvaluationStatistics
from steel.reports.tables import format_columns


@dataclass(frozen=True)
class GateResult:
    """One gate's row of the table."""

    gate: str
    decision: Decision
    scores: Scores
    """On the judged images."""
    mean_dice_interval: Interval | None
    """95 % bootstrap interval over the judged images."""
    gain_interval: Interval | None
    """Likewise, of what the gate adds to the first one in the table (paired); None for that one."""


def gate_table(decisions: Mapping[str, Decision], judged: EvaluationStatistics, *, seed: int = 0) -> list[GateResult]:
    """Judge the decision of each gate (see `Tuning.by_gate`) on the same images."""
    results: list[GateResult] = []
    reference = None
    for gate, decision in decisions.items():
        outcome = decide(judged, decision)
        gain = None if reference is None else bootstrap_difference(outcome, reference, "mean_dice", seed=seed)
        reference = reference or outcome
        interval = bootstrap(outcome, "mean_dice", seed=seed)
        results.append(GateResult(gate, decision, score(outcome), interval, gain))
    return results


def format_gates(results: Sequence[GateResult], *, markdown: bool = False) -> str:
    """The table as text for a terminal, or as Markdown."""
    header = ["gate", "mean Dice", "95 %", f"over {results[0].gate}, 95 %", "positive Dice"]
    rows = [
        [
            result.gate,
            f"{result.scores.mean_dice:.4f}",
            _span(result.mean_dice_interval, "{:.4f}"),
            _span(result.gain_interval, "{:+.4f}"),
            "-" if np.isnan(result.scores.mean_dice_positive) else f"{result.scores.mean_dice_positive:.4f}",
        ]
        for result in results
    ]
    floor = f"answering nothing gets {results[0].scores.mean_dice_all_empty:.4f}"
    return "\n".join([format_columns([header, *rows], markdown=markdown), *([""] if markdown else []), floor])


def _span(interval: Interval | None, number: str) -> str:
    return "-" if interval is None else " to ".join(number.format(value) for value in interval)
