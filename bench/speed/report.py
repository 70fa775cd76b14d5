"""The results as a table for people and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.speed.run import RowResult, SideResult


def write_report(
    markdown: Path, results: Sequence[RowResult], facts: dict[str, Any], notes: Sequence[str], title: str = "Speed"
) -> None:
    """Write `markdown` and, beside it, the same with every repeat as JSON."""
    lines = [f"# {title}", "", *notes, ""]
    for name, value in facts.items():
        lines.append(f"- {name}: {_flat(value)}")
    lines += ["", "| row | side | median | ours is | target | |", "|---|---|---|---|---|---|"]
    for result in results:
        for number, side in enumerate(result.sides):
            lines.append(_line(result, side, first=number == 0))
    markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = {"facts": facts, "rows": [_record(result) for result in results]}
    markdown.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def _record(result: RowResult) -> dict[str, Any]:
    """Plain values; without the sides' options, which are places on this machine."""
    row = result.row
    sides = [
        {"label": side.side.label, "target": side.side.target, "most_ms": side.side.most_ms}
        | {"least_rate": side.side.least_rate, "remark": side.side.remark}
        | {"rates": side.rates, "ratios": side.ratios, "reached": result.reached(side), "error": side.error}
        for side in result.sides
    ]
    return {"name": row.name, "title": row.title, "unit": row.unit, "at_most": row.at_most, "sides": sides}


def _line(result: RowResult, side: SideResult, *, first: bool) -> str:
    row = result.row
    title = f"**{row.title}**" if first else ""
    remark = side.side.remark if not side.error else f"could not run: {side.error}"
    if not side.rates:
        return f"| {title} | {side.side.label} | - | - | - | {remark} |"
    ratio = target = ""
    if side.ratios:
        ratio = f"{side.ratio:.2f}x ({min(side.ratios):.2f} to {max(side.ratios):.2f})"
    verdict = "reached" if result.reached(side) else "**missed**"
    if side.side.target is not None:
        bound = "at most" if row.at_most else "at least"
        target = f"{bound} {side.side.target:g}x: {verdict}"
    elif side.side.least_rate is not None:
        target = f"at least {side.side.least_rate:,g} {row.unit}: {verdict}"
    elif side.side.most_ms is not None:
        target = f"{side.milliseconds:.2f} ms, at most {side.side.most_ms:g}: {verdict}"
    return f"| {title} | {side.side.label} | {_figure(side.rate)} {row.unit} | {ratio} | {target} | {remark} |"


def _figure(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _flat(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
