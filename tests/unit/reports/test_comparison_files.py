"""The files of a comparison: its page, its pictures, and what cannot be read."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steel.cli import main
from steel.errors import InputError
from steel.reports import comparison_page as page_module
from steel.reports.comparison import compare
from steel.reports.comparison_page import comparison_page, write_comparison
from steel.reports.evaluated import short_names
from tests.evaluated_images import FIRST, SECOND, write_report


def test_every_number_of_the_page_is_one_of_its_json(tmp_path: Path) -> None:
    paths = [write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)]
    out = tmp_path / "pages" / "compare.html"
    assert main(["compare", *paths, "--out", str(out)]) == 0
    page, values = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    marked = re.findall(r'<data value="([^"]*)" data-from="([^"]*)">', page)
    assert len(marked) > 60
    for value, pointer in marked:
        found: Any = values
        for key in pointer.split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
        assert str(found) == value.replace("&#x27;", "'"), pointer
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/test", "b/test", "a/test"], ["a (1)", "b", "a (2)"]),
        (["a/test", "b/test"], ["a", "b"]),
        (["a/test", "a/test"], ["test (1)", "test (2)"]),
        (["a/test", "b/test", "b/other", "b/test"], ["a/test", "b/test (1)", "b/other", "b/test (2)"]),
        (["a/test"], ["test"]),
    ],
)
def test_names_tell_paths_apart_and_number_what_is_given_twice(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names


def test_an_earlier_page_never_stands_beside_other_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)]
    comparison, out = compare(paths), tmp_path / "compare.html"
    write_comparison(comparison, out)

    def fail(*_: object) -> str:
        raise OSError("no room")

    monkeypatch.setattr(page_module, "comparison_page", fail)
    with pytest.raises(OSError, match="no room"):
        write_comparison(comparison, out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["compare.html", "compare.json"])
def test_files_of_others_are_not_replaced(tmp_path: Path, name: str) -> None:
    paths = [write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)]
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{name} there already, and not of an earlier call; choose another --out"):
        write_comparison(compare(paths), tmp_path / "compare.html")
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["report", "metrics", "config"])
def test_a_comparison_replaces_nothing_of_what_it_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Neither by its page nor by the numbers beside that, however the evaluation is named."""
    paths = [write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)]
    for path in paths:
        (Path(path) / "report.html").write_text("a page")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for two in (paths[1], f"{paths[1]}/report.html", f"{paths[1]}/metrics.json"):
        assert main(["compare", paths[0], two, "--out", f"{paths[1]}/{name}.html"]) == 2
        assert f"two/{name}." in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_that_lies_beside_scores_is_not_taken_for_them(tmp_path: Path) -> None:
    """Two checkpoints of one run would seem to be alike to the last digit."""
    one, two = write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)
    (Path(two) / "report.html").write_text("a page")
    assert len(compare([one, f"{two}/report.html"])["pairs"]) == 1
    for name in ("model.safetensors", "compare.html", "per_image.csv"):
        (Path(two) / name).touch()
        with pytest.raises(InputError, match=f"two/{name}: no scores; give the folder of a finished run, a folder "):
            compare([one, f"{two}/{name}"])


@pytest.mark.parametrize("damage", ["no folder", "no scores", "not JSON", "no number", "another count", "alone"])
def test_what_cannot_be_compared_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    one, two = write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)
    table = Path(two) / "per_image.csv"
    if damage == "no folder":
        two = str(tmp_path / "three")
    elif damage == "no scores":
        (Path(two) / "metrics.json").write_text("{}")
    elif damage == "not JSON":
        (Path(two) / "metrics.json").write_text("{")
    elif damage == "no number":
        table.write_text(table.read_text().replace("0.75", "much"))
    elif damage == "another count":
        table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(InputError) as error:
        compare([one] if damage == "alone" else [one, two])
    assert "\n" not in str(error.value)
    assert damage == "alone" or str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("role", ["test"]), ("dice_positive_per_class", 0.5), ("true_images_per_class", 3), ("role", {"test": 1})],
)
def test_scores_of_another_type_are_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    paths = [write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)]
    for path in paths:
        file = Path(path, "metrics.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(InputError, match=f"metrics.json: not the scores of an evaluation \\({name} must be"):
        compare(paths)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("true pixels", "true pixel", "has no column 'true pixels .*', which metrics.json beside it asks for"),
        (",10,", ",1e300,", "pixels that no image has"),
    ],
)
def test_a_table_that_does_not_fit_its_scores_names_both(tmp_path: Path, old: str, new: str, said: str) -> None:
    paths = [write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)]
    table = Path(paths[1]) / "per_image.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=f"two.per_image.csv: .*{said}"):
        compare(paths)


@pytest.mark.parametrize(("height", "of_gallery"), [(516, "gallery strips"), (1650, "gallery")])
def test_overlays_of_strips_have_room_and_lost_ones_are_left_out(tmp_path: Path, height: int, of_gallery: str) -> None:
    paths = [write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)]
    for path in paths:
        table = Path(path) / "per_image.csv"
        table.write_text(re.sub(r"(?m)^([ad]),([\w ]+),,", r"\1,\2,\1.jpg,", table.read_text()))
        cv2.imwrite(f"{path}/a.jpg", np.zeros((height, 1600), np.uint8))
    (Path(paths[1]) / "d.jpg").write_bytes(b"half of a pict")
    pictures = comparison_page(compare(paths)).split("Truth above prediction")[1]
    assert re.findall(r'<div class="(gallery[ \w]*)">', pictures) == [of_gallery]
    assert re.findall(r'alt="(\w by \w+)" width="(\d+)" height="(\d+)"', pictures) == [
        ("a by one", "1600", str(height)),
        ("a by two", "1600", str(height)),
    ]
