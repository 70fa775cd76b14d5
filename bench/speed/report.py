"""The results as a table for people and as JSON, of which the table is made.

`python -m bench.speed.report` makes the committed tables anew of the JSON beside them: where their form has changed,
nothing needs to be measured again.
"""

import importlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.made_by import fact_lines
from bench.speed.run import RowResult
from bench.speed.worker import ROOT

PROGRAMS = {
    "speed": "bench.speed.__main__",
    "train_step": "bench.train_step.__main__",
    "predictions": "bench.predictions",
}
"""What measures each committed table, by the table's name."""


def write_report(
    markdown: Path, results: Sequence[RowResult], facts: dict[str, Any], notes: Sequence[str], title: str
) -> None:
    """Write `markdown` and, beside it, the same with every repeat as JSON."""
    text = json.dumps({"facts": facts, "rows": [_record(result) for result in results]}, indent=1) + "\n"
    markdown.with_suffix(".json").write_text(text, encoding="utf-8")
    markdown.write_text(page(json.loads(text), notes, title), encoding="utf-8")


def page(record: Mapping[str, Any], notes: Sequence[str], title: str) -> str:
    """The document of what stands in the JSON beside it."""
    lines = [f"# {title}", "", *notes, "", *fact_lines(record["facts"])]
    lines += ["", "| row | side | median | ours is | target | |", "|---|---|---|---|---|---|"]
    for row in record["rows"]:
        lines += [_line(row, side, first=number == 0) for number, side in enumerate(row["sides"])]
    return "\n".join(lines) + "\n"


def committed(name: str) -> tuple[Path, str]:
    """The file of a table of `PROGRAMS`, and what is to stand there by the JSON beside it."""
    program, markdown = importlib.import_module(PROGRAMS[name]), ROOT / "bench" / f"{name}.md"
    record = json.loads(markdown.with_suffix(".json").read_text(encoding="utf-8"))
    return markdown, page(record, program.NOTES, program.TITLE)


def _record(result: RowResult) -> dict[str, Any]:
    """Plain values; without the sides' options, which are places on this machine."""
    row = result.row
    sides = [
        {
            "label": side.side.label,
            "target": side.side.target,
            "most_ms": side.side.most_ms,
            "least_rate": side.side.least_rate,
            "remark": side.side.remark,
            "rates": side.rates,
            "ratios": side.ratios,
            "reached": result.reached(side),
            "error": side.error,
        }
        for side in result.sides
    ]
    return {"name": row.name, "title": row.title, "unit": row.unit, "at_most": row.at_most, "sides": sides}


def _line(row: Mapping[str, Any], side: Mapping[str, Any], *, first: bool) -> str:
    title, label, unit = f"**{row['title']}**" if first else "", side["label"], row["unit"]
    if not (rates := side["rates"]):
        remark = f"could not run: {side['error']}" if side["error"] else side["remark"]
        return f"| {title} | {label} | - | - | - | {remark} |"
    rate = statistics.median(rates)
    speed = f"{_figure(rate)} {unit} ({_figure(min(rates))} to {_figure(max(rates))})"
    ratio = target = ""
    if ratios := side["ratios"]:
        ratio = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    verdict = "reached" if side["reached"] else "**missed**"
    if side["target"] is not None:
        target = f"{'at most' if row['at_most'] else 'at least'} {side['target']:g}x: {verdict}"
    elif side.get("least_rate") is not None:
        target = f"at least {side['least_rate']:,g} {unit}: {verdict}"
    elif side["most_ms"] is not None:
        target = f"{1000 / rate:.2f} ms, at most {side['most_ms']:g}: {verdict}"
    return f"| {title} | {label} | {speed} | {ratio} | {target} | {side['remark']} |"


def _figure(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    for name in PROGRAMS:
        markdown, text = committed(name)
        markdown.write_text(text, encoding="utf-8")
