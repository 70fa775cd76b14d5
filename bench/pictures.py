"""Pictures of what `make demo` left. README has an overlay, the report's top, and the terminal while it trains;
docs/reading-the-report.md has the report's parts.

    python -m bench.pictures runs/demo --out docs/pictures        (`make pictures`)

The same run folder gives the same pictures. What the terminal shows is recorded once, from a training like the demo's
that is stopped when its pace is known, and kept in the run folder as `terminal.txt`; its times are that machine's.
"""

import csv
import html
import io
import itertools
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steel import Predictor
from steel.commands.common import Parser
from steel.images.pictures import draw_overlay, encode_picture
from steel.images.tags import draw_tags, tag_size
from steel.inference.prediction import Prediction
from steel.inference.region_tags import mark_regions, tags_of

MOST_BYTES = 150_000
"""Of one picture."""
CROP_WIDTH, REPORT_SIZE = 560, (1120, 690)
SECTIONS = ("strips", "scores", "thresholds", "calibration", "sizes", "gallery", "labels")
"""Parts of the report, by the id that they have in the page."""
SECTION_SIZE = (1120, 620)
"""Width of the page, and the most of a part's height that is shown, in CSS pixels."""
COMMAND = "python -m train.fit --preset demo --data shards --out run"
COLUMNS = 100
"""Of the terminal."""
RECORD_SECONDS = 900
"""The recording fails where the first steps take longer."""


def best_found(run: Path) -> list[str]:
    """Of each class the test image whose masks are best among those that have it."""
    with open(run / "per_image.csv", newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["result"] == "found"]
    areas = [name for name in (found[0] if found else {}) if name.startswith("true pixels ")]
    having = [[row for row in found if int(row[name])] for name in areas]
    best = [max(rows, key=lambda row: (float(row["dice"]), row["image_id"]))["image_id"] for rows in having if rows]
    return list(dict.fromkeys(best))


def overlay_picture(run: Path) -> bytes:
    """JPEG: what `steel predict --format overlays` makes of those images, as much as has defects, two in a row."""
    paths = [run / "data" / "test_images" / name for name in best_found(run)]
    predictor = Predictor.from_checkpoint(run / "model.safetensors")
    crops = [cropped_overlay(prediction) for prediction in predictor.predict_stream(paths)]
    assert len(crops) >= 2, f"{run} found defects of fewer than two classes"
    rows = [np.hstack([left, gap(left, 1), right]) for left, right in zip(crops[::2], crops[1::2], strict=False)]
    return encode_picture(np.vstack([part for row in rows for part in (row, gap(row, 0))][:-1]), ".jpg", quality=75)


def cropped_overlay(prediction: Prediction) -> np.ndarray:
    """A part of its overlay, `CROP_WIDTH` wide; names and probabilities are those of what is seen of each region, and
    stand in the part as a whole."""
    masks = prediction.masks
    seen = middle_of(masks)
    picture = draw_overlay(prediction.image, masks)[:, seen]
    tags = tags_of(mark_regions(masks[..., seen], prediction.mask_probs[..., seen]), prediction.class_names)
    return draw_tags(picture, tags, tag_size(*masks.shape[1:]))


def middle_of(masks: np.ndarray) -> slice:
    """The columns, `CROP_WIDTH` of them, whose middle is that of the masks (C, H, W)."""
    width = masks.shape[2]
    columns = np.flatnonzero(masks.any(axis=(0, 1)))
    middle = int(columns.mean()) if len(columns) else width // 2
    left = max(0, min(middle - CROP_WIDTH // 2, width - CROP_WIDTH))
    return slice(left, left + CROP_WIDTH)


def gap(picture: np.ndarray, axis: int) -> np.ndarray:
    """A white bar as long as the picture, below it (0) or beside it (1)."""
    shape = list(picture.shape)
    shape[axis] = 6
    return np.full(shape, 255, np.uint8)


def report_picture(run: Path, browser: Any) -> bytes:
    """PNG: the top of report.html."""
    width, height = REPORT_SIZE
    page = open_report(run, browser, width, height)
    picture = page.screenshot()
    page.close()
    return with_few_colours(picture)


def section_pictures(run: Path, browser: Any) -> dict[str, bytes]:
    """PNG of each of `SECTIONS`, from its heading down, by the name of its file."""
    width, most = SECTION_SIZE
    page = open_report(run, browser, width, most)
    found = {}
    for name in SECTIONS:
        section = page.locator(f"section#{name}")
        section.scroll_into_view_if_needed()
        page.wait_for_timeout(2000)  # pictures are loaded and decoded as they come into view
        box = section.bounding_box()
        assert box is not None, f"{run / 'report.html'} has no part {name}"
        top = box["y"] + page.evaluate("window.scrollY")
        clip = {"x": 0, "y": top, "width": width, "height": min(most, box["height"])}
        found[f"report-{name}.png"] = with_few_colours(page.screenshot(clip=clip, full_page=True))
    page.close()
    return found


def open_report(run: Path, browser: Any, width: int, height: int) -> Any:
    """The page of a run in a window of a size."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto((run / "report.html").resolve().as_uri())
    return page


def with_few_colours(png: bytes) -> bytes:
    """The same picture in a file of a third of the size; the rare colours, those of the classes, are among the few."""
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "png", optimize=True)
    return file.getvalue()


def recorded_terminal(run: Path) -> str:
    """What the terminal shows while the demo trains, `COLUMNS` wide; see the module."""
    path = run / "terminal.txt"
    if not path.exists():
        path.write_text(record(run), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def record(run: Path) -> str:
    """Train as the demo does until its pace is known, on a terminal of its own: what stands there then.

    Raises:
        SystemExit: it ended, or it took too long.
    """
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (30, COLUMNS))
    with tempfile.TemporaryDirectory() as out:
        line = [sys.executable, "-m", "train.fit", "--preset", "demo", "--data", str(run / "shards")]
        line += ["--out", out, "--tracking.tracker", "none", "--runtime.decoded-cache", "off"]
        process = subprocess.Popen(line, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        written, until = b"", time.monotonic() + RECORD_SECONDS
        try:
            while not is_under_way(shown := screen(written.decode(errors="ignore"), COLUMNS)):
                left = until - time.monotonic()
                if process.poll() is not None or not select.select([master], [], [], max(0.0, left))[0]:
                    raise SystemExit(f"error: the training said no pace within {RECORD_SECONDS} s:\n{shown}")
                written += os.read(master, 65536)
            return shown
        finally:
            process.kill()
            process.wait()
            os.close(master)


def is_under_way(shown: str) -> bool:
    """Whether the pace has been told, and the line that lives stands below."""
    *above, last = shown.splitlines() or [""]
    return any("to go at the pace of" in " ".join(pair) for pair in itertools.pairwise(above)) and "images/s" in last


def screen(written: str, columns: int) -> str:
    """What a terminal shows of what a program wrote: a line that was written over counts once, a long one wraps."""
    lines: list[str] = []
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r\n", "\n").split("\n"):
        shown = ""
        for piece in line.split("\r"):
            shown = piece + shown[len(piece) :]
        shown = shown.rstrip()
        lines += [shown[start : start + columns] for start in range(0, max(1, len(shown)), columns)]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n"


def terminal_picture(command: str, shown: str) -> bytes:
    """SVG: a window with a command and what it wrote, the last line, which lives, in a colour of its own."""
    size, advance, height, margin = 14, 8.43, 20, 16
    lines = [f"$ {command}", *shown.splitlines()]
    width = round(COLUMNS * advance + 2 * margin)
    whole = len(lines) * height + 2 * margin + 8
    rows = []
    for number, line in enumerate(lines):
        if not line:
            continue
        colour = "#7ee787" if number == len(lines) - 1 else "#8b949e" if number == 0 else "#e6edf3"
        length = f'textLength="{len(line) * advance:.1f}" lengthAdjust="spacingAndGlyphs"'
        y = margin + (number + 1) * height
        rows.append(f'<text x="{margin}" y="{y}" fill="{colour}" {length}>{html.escape(line)}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{whole}" viewBox="0 0 {width} {whole}">',
            f'<rect width="{width}" height="{whole}" rx="8" fill="#0d1117"/>',
            f"<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" "
            f'font-size="{size}" xml:space="preserve">',
            *rows,
            "</g></svg>\n",
        ]
    ).encode()


def main(argv: Sequence[str] | None = None) -> None:
    """Make the pictures."""
    parser = Parser(prog="python -m bench.pictures", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder that `make demo` left")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder to write")
    arguments = parser.parse_args(argv)
    run: Path = arguments.run
    if not (run / "report.html").is_file():
        raise SystemExit(f"error: {run} has no report.html; `make demo` makes one")
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        report, sections = report_picture(run, browser), section_pictures(run, browser)
        browser.close()
    pictures = {
        "overlays.jpg": overlay_picture(run),
        "report.png": report,
        "terminal.svg": terminal_picture(COMMAND, recorded_terminal(run)),
        **sections,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        if len(data) > MOST_BYTES:
            raise SystemExit(f"error: {name} has {len(data):,} bytes, more than {MOST_BYTES:,}")
        (arguments.out / name).write_bytes(data)
        print(f"{arguments.out / name}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
