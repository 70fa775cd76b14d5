"""Contact sheets, looked at pixel by pixel."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steel.images import contact_sheet as contact_sheet_module
from steel.images.class_colours import class_colour
from steel.images.contact_sheet import contact_sheet, rows_of, save_contact_sheet, shrink_for_sheet, wrap
from steel.images.fonts import load_font

BACKGROUND = (24, 26, 30)


def test_wide_pictures_have_a_row_each_and_square_ones_stand_side_by_side() -> None:
    wide = [np.full((16, 100, 3), 255, np.uint8)] * 3
    assert contact_sheet(wide, width=212).shape == (6 + 3 * (32 + 6), 212, 3)
    square = [np.full((20, 20), 255, np.uint8)] * 5
    # Three in a row: (206 - 4 * 6) / 3 = 60.7 high; two would be 94, more than a third of 206.
    assert contact_sheet(square, width=206).shape == (6 + 2 * (61 + 6), 206, 3)


def test_rows_fill_the_sheet_whatever_the_sizes() -> None:
    sizes = [(64, 1600), (64, 64), (900, 300), (40, 400), (256, 1600), (200, 200), (200, 200), (300, 100), (64, 640)]
    sheet = contact_sheet([np.full(size, 255, np.uint8) for size in sizes])
    is_black = (sheet == BACKGROUND).all(axis=2)
    assert is_black.mean() < 0.12  # the gaps, and what the last row leaves
    rows = rows_of([width / height for height, width in sizes], 1280)
    assert [i for row, _ in rows for i in row] == list(range(9))
    assert max(height for _, height in rows) <= 1280 / 3


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_a_last_row_is_no_higher_than_the_one_before(number: int) -> None:
    rows = rows_of([1.0] * number, 1280)
    assert sum(len(row) for row, _ in rows) == number
    assert rows[-1][1] <= min(height for _, height in rows) <= 1280 / 3


def test_captions_are_whole_and_no_wider_than_their_picture() -> None:
    text = "a-name-without-any-space-that-is-wider-than-its-picture.jpg true: class 1, class 3 predicted: clean"
    lines = wrap(text, 120)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(load_font(15).getlength(line) <= 114 for line in lines)
    assert wrap("short", 120) == ["short"] and wrap("", 120) == []


def test_a_long_word_fills_its_lines_and_is_not_measured_time_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    font, measured = load_font(15), []

    class Measuring:
        def getlength(self, text: str) -> float:
            measured.append(len(text))
            return font.getlength(text)

    monkeypatch.setattr(contact_sheet_module, "load_font", lambda *_: Measuring())
    word = "xyzw" * 200
    lines = wrap(word, 124)
    assert "".join(lines) == word
    assert all(font.getlength(line) <= 118 for line in lines)
    assert all(font.getlength(line + after[0]) > 118 for line, after in pairwise(lines))
    assert sum(measured) < 100 * len(word)


def test_captions_beside_very_long_pictures_have_room() -> None:
    sizes = [(23_000, 37), (4, 1600), (400, 64), (400, 64), (16, 11_000), (9000, 30), (30, 40)]
    pictures = [np.full(size, 255, np.uint8) for size in sizes]
    captions = ["Bild 22 with a long name.png  true: Schale/Schuppe, Riß, Pore - predicted: clean"] * len(sizes)
    sheet = contact_sheet(pictures, captions)
    assert len(sheet) < 1280 * 4 / 3 + 7 * 20 * 10  # four rows of uprights, captions of at most ten lines
    assert len(contact_sheet(pictures[4:], captions[4:])) < 1280 + 3 * 20 * 10  # the last row is not as low as a strip
    assert len(contact_sheet(pictures[1:2] + pictures[4:5])) > 60  # no lines of a few pixels


def test_small_pictures_are_shown_as_they_are_and_large_ones_shrunk_to_a_few_pixels_more_than_is_shown() -> None:
    small = [np.zeros(size, np.uint8) for size in [(540, 1600), (850, 400), (3, 5)]]
    assert all(shrink_for_sheet(picture) is picture for picture in small)
    sizes = [(6000, 3000), (2000, 8000), (64, 20_000), (23_000, 37), (5000, 5000)]
    large = [np.zeros((*size, 3), np.uint8) for size in sizes]
    shrunk = [shrink_for_sheet(picture) for picture in large]
    shapes = [(853, 427), (640, 2560), (64, 20_000), (23_000, 37), (853, 853)]
    assert [picture.shape[:2] for picture in shrunk] == shapes
    assert contact_sheet(shrunk).shape == contact_sheet(large).shape


def test_a_large_picture_looks_the_same_when_it_was_shrunk_before() -> None:
    picture = np.kron(np.random.default_rng(0).integers(0, 256, (20, 60)), np.ones((50, 100))).astype(np.uint8)
    sheets = [contact_sheet([shown], width=300).astype(int) for shown in (picture, shrink_for_sheet(picture, 300))]
    assert sheets[0].shape == sheets[1].shape
    assert np.abs(sheets[0] - sheets[1]).mean() < 4


def test_a_legend_names_each_class_beside_its_colour() -> None:
    picture = np.full((20, 100), 90, np.uint8)
    bare, sheet = (contact_sheet([picture], class_names=names) for names in ((), ("pit", "dent")))
    legend = sheet[6:26]
    assert len(sheet) == len(bare) + 26 and (sheet[26:] == bare).all()
    assert (legend[10, 8] == class_colour(1)).all()
    assert (legend == class_colour(2)).all(axis=2).sum() == 14 * 14
    many = contact_sheet([picture], class_names=[f"a rather long name {k}" for k in range(12)])
    assert len(many) == len(bare) + 46  # a second line


def test_it_is_written_whole_with_readable_captions(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    save_contact_sheet(path, [np.zeros((16, 100, 3), np.uint8)], ["name"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]
    pixels = np.asarray(Image.open(path))
    assert pixels[6:30].max() > 200  # the caption's letters
