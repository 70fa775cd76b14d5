"""What the README's pictures are made of."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from bench import pictures
from steel.decision import ClassDecision, Decision
from steel.inference.prediction import Prediction


def test_a_line_that_was_written_over_counts_once_and_a_long_one_wraps() -> None:
    written = (
        "first\r\n\rstep 1 of 9\rstep 2\r            \rsecond\r\n\x1b[32m0123456789ab\x1b[0m\r\n\rlives · 1 s\r\n\r\n"
    )
    assert pictures.screen(written, 10) == "first\nsecond\n0123456789\nab\nlives · 1\ns\n".replace("1\ns", "1 \ns")


def test_the_recording_ends_once_the_pace_is_told_and_the_line_lives() -> None:
    pace = "0:30 to go at the pace of\nthe first 3 steps (9.0 images/s)"
    live = "loss 0.5 · 9.0 images/s"
    assert pictures.is_under_way(f"a\n{pace}\n{live}\n")
    assert not pictures.is_under_way(f"{live}\n") and not pictures.is_under_way("a\n0:30 to go at the pace of\n")
    assert not pictures.is_under_way("")


def test_the_terminal_is_drawn_line_by_line() -> None:
    root = ElementTree.fromstring(pictures.terminal_picture("make <x>", "a & b\n\nlives\n"))
    lines = list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert [line.text for line in lines] == ["$ make <x>", "a & b", "lives"]
    assert len({line.get("fill") for line in lines}) == 3
    assert "href" not in ElementTree.tostring(root, encoding="unicode")


def test_of_each_class_the_best_found_image_is_shown(tmp_path: Path) -> None:
    rows = ["image_id,result,dice,true pixels pit,true pixels dent"]
    rows += ["a,found,0.7,5,0", "b,found,0.9,5,0", "c,miss,0.95,5,5", "d,found,0.8,0,4", "e,clean,1.0,0,0"]
    (tmp_path / "per_image.csv").write_text("\n".join(rows))
    assert pictures.best_found(tmp_path) == ["b", "d"]


def test_a_crop_has_the_masks_in_its_middle_and_stays_in_the_picture() -> None:
    masks = np.zeros((2, 4, 1600), bool)
    masks[1, 0, 790:811] = True
    assert pictures.middle_of(masks) == slice(520, 1080)
    masks[:] = False
    masks[0, 0, 1599] = True
    assert pictures.middle_of(masks) == slice(1040, 1600)


def test_names_stand_in_the_crop_as_a_whole() -> None:
    """Also that of a region near the right border of the crop, which in the image itself would reach beyond it."""
    probs = np.zeros((1, 200, 1600), np.uint8)
    probs[0, 100:140, 500:540] = probs[0, 100:140, 900:940] = 255
    decision, image = Decision((ClassDecision(),)), np.full((200, 1600), 60, np.uint8)
    crop = pictures.cropped_overlay(
        Prediction("a", image, ("a rolled pit",), decision, probs, np.full(2, 255, np.uint8))
    )
    assert crop.shape == (200, pictures.CROP_WIDTH, 3)
    columns = np.flatnonzero((crop[:95] != 60).any(axis=(0, 2)))  # above the regions, where the names stand
    near, far = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    assert len(near) == len(far) and near[0] == 61 and far[-1] == pictures.CROP_WIDTH - 1
