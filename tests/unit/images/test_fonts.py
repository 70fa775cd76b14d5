"""Which font is taken for a text; the system's fonts are made here, so that no machine's own matter."""

import io
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from steel.images import fonts
from steel.images.fonts import font_file, letters_of, load_font
from steel.reports.plots import draw_history, encode_figure

SCRATCH, PIT = "划痕", "点蚀"


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    have(monkeypatch)
    yield
    forget()


def forget() -> None:
    for remembered in (fonts._file_with, fonts._code_points, fonts._system_fonts):
        remembered.cache_clear()


def have(monkeypatch, *paths: Path) -> None:
    """Let these be the system's fonts."""
    forget()
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(path) for path in paths])


def make_font(path: Path, letters: str) -> Path:
    """A TrueType font in which each of these letters is a full square, and any other letter an empty one."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, letters = pen.glyph(), "".join(sorted(set(letters)))
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf({name: TTGlyphPen(None).glyph() if name == ".notdef" else square for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def ink(text: str) -> float:
    """The share of a square of 100 pixels that a letter of its height covers, all letters together."""
    return sum(load_font(100, text).getmask(text)) / (255 * 92 * 92)


@pytest.mark.parametrize("text", ["scratch", "Riß", "rayure détectée", "царапина", ""])
def test_a_text_in_most_alphabets_is_in_the_font_that_is_always_there(text, tmp_path, monkeypatch):
    have(monkeypatch, make_font(tmp_path / "a.ttf", text))
    assert font_file(text).name == "DejaVuSans.ttf"


def test_other_letters_come_from_the_first_regular_font_that_has_all(tmp_path, monkeypatch):
    some, bold, good, later = (
        make_font(tmp_path / f"{name}.ttf", letters)
        for name, letters in {"A": SCRATCH, "B-Bold": SCRATCH + PIT, "C": SCRATCH + PIT, "D": SCRATCH + PIT}.items()
    )
    broken = tmp_path / "0.ttf"
    broken.write_bytes(b"no font")
    have(monkeypatch, later, good, bold, some, broken)
    assert font_file(SCRATCH) == some
    assert font_file(SCRATCH + PIT) == good
    have(monkeypatch, bold)
    assert font_file(PIT) == bold  # better than none


def test_where_no_font_has_all_letters_that_with_the_most_is_taken(tmp_path, monkeypatch):
    some = make_font(tmp_path / "A.ttf", PIT)
    have(monkeypatch, some)
    assert font_file(SCRATCH[0] + PIT) == some
    assert font_file(SCRATCH).name == "DejaVuSans.ttf"  # which has neither: a box for each


def test_a_font_that_has_ascii_too_is_better_and_each_is_opened_once(tmp_path, monkeypatch):
    ascii_letters = "".join(map(chr, range(33, 127)))
    bare, whole = make_font(tmp_path / "A.ttf", PIT), make_font(tmp_path / "B.ttf", PIT + " " + ascii_letters)
    have(monkeypatch, bare, whole)
    assert font_file(f"{PIT} 0.93") == font_file(f"{PIT} 0.94") == whole
    assert letters_of(bare, f"{PIT}x") == set(PIT)
    assert (fonts._file_with.cache_info().misses, fonts._code_points.cache_info().misses) == (1, 3)


def test_what_is_drawn_is_the_letter(tmp_path, monkeypatch):
    have(monkeypatch, make_font(tmp_path / "A.ttf", SCRATCH))
    assert ink(SCRATCH) == pytest.approx(2 * 0.81, rel=0.05)


def test_curves_name_a_class_in_its_own_letters(tmp_path, monkeypatch):
    def legend() -> np.ndarray:
        records = [{"kind": "validation", "phase": 0, "epoch": e, "f1": {f"{SCRATCH} x": 0.5}} for e in (1, 2)]
        return np.asarray(Image.open(io.BytesIO(encode_figure(draw_history(records)))))

    boxes = legend()
    have(monkeypatch, make_font(tmp_path / "A.ttf", f"{SCRATCH} xlp"))
    letters = legend()
    dark = [(picture[..., :3] < 100).all(axis=2).sum() for picture in (boxes, letters)]
    assert dark[1] - dark[0] > 2 * 100  # full squares of 11 pixels
