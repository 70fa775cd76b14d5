"""Formats for `test_fuzz`: what programs leave in their output folders and read again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from steel.inference.journal import Journal, line_of
from steel.reports.comparison import compare, format_comparison
from steel.reports.comparison_page import comparison_page
from tests.evaluated_images import FIRST, SECOND, write_report
from tests.fuzzing import JSON_EDITS, TABLE_EDITS, Format, edit_bytes

# --- unfinished predictions ---

JOB = {"images": "/data/images/", "format": ["kaggle"], "template": None, "tta": ["hflip"], "pixels-per-pass": 4000}
LINES = {f"{name}.jpg": {"classes": [1], "entries": {"kaggle": [f"{n} 2", ""]}} for n, name in enumerate("abc", 1)}
VERSION = "4096 1700000000"


def make_journal(folder: Path) -> str:
    journal = Journal(str(folder))
    journal.begin(JOB)
    journal.take_down_images(LINES)
    with journal.recorder() as recorder:
        for image_id, values in LINES.items():
            recorder.add(line_of(image_id, VERSION, values))
    return ".unfinished/job.json"


def make_journal_part(folder: Path) -> str:
    make_journal(folder)
    (part,) = (folder / ".unfinished").glob("*.jsonl")
    return f".unfinished/{part.name}"


def make_journal_images(folder: Path) -> str:
    make_journal(folder)
    (images,) = (folder / ".unfinished").glob("*.images")
    return f".unfinished/{images.name}"


def go_on(folder: Path) -> Any:
    """As predicting does: what is missing is predicted again."""
    journal = Journal(str(folder))
    journal.begin(JOB)
    journal.take_down_images(LINES)
    lines = journal.lines(dict.fromkeys(LINES, VERSION))
    return [lines.get(name, {"image": name, "version": VERSION, **values}) for name, values in LINES.items()]


# --- evaluations ---


def evaluated(file: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        write_report(folder / "first", FIRST)
        write_report(folder / "second", SECOND)
        (folder / "first" / "config.json").write_text('{"seed": 0, "phases": [{"lr": 0.5}, {"lr": 0.1}]}')
        return f"first/{file}"

    return make


def compare_both(folder: Path) -> Any:
    found = compare([str(folder / "first"), str(folder / "second")])
    return found, format_comparison(found), comparison_page(found)


FORMATS: dict[str, Format] = {
    "unfinished predictions": Format(make_journal, go_on, JSON_EDITS, names="folder"),
    "images of unfinished predictions": Format(make_journal_images, go_on, JSON_EDITS, names="folder"),
    "part of unfinished predictions": Format(make_journal_part, go_on, (edit_bytes,), is_hashed=True),
    "scores of an evaluation": Format(evaluated("metrics.json"), compare_both, JSON_EDITS),
    "images of an evaluation": Format(evaluated("per_image.csv"), compare_both, TABLE_EDITS, names="folder"),
    "settings of an evaluation": Format(evaluated("config.json"), compare_both, JSON_EDITS),
}
