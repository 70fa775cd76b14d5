"""Tables of strings, for terminals and Markdown."""

from collections.abc import Sequence


def format_columns(rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Line up rows, the first of which is the header; the first column to the left, all others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |" if markdown else "  ".join(cells).rstrip())
    if markdown:
        rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
        lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)
