"""How places are named: paths, URLs, and those that are refused."""

import zipfile
from pathlib import Path

import pytest

from steel import storage
from steel.cli import main
from steel.errors import InputError


def test_places_in_the_current_folder_and_in_the_root() -> None:
    assert storage.join("", "a", "b") == "a/b"
    assert storage.join("/", "a") == "/a"
    assert storage.join("c/", "a") == "c/a"


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("folder", False),
        ("/a/b", False),
        ("file:///a", False),
        ("FILE:///a", False),
        ("s3://a/b", True),
        ("memory://a", True),
    ],
)
def test_what_is_remote(url: str, remote: bool) -> None:
    assert storage.is_remote(url) == remote


def test_names_are_joined() -> None:
    assert storage.join("s3://a/b/", "c", "d") == "s3://a/b/c/d"
    assert storage.join("/", "c") == "/c"
    assert storage.join(Path("a"), "c") == "a/c"


def test_an_unknown_protocol_is_one_line() -> None:
    with pytest.raises(InputError, match="nosuch://a"):
        storage.read_bytes("nosuch://a")


def test_a_place_in_an_archive_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("images/model.safetensors", b"")
    url = f"zip://images::{tmp_path}/a.zip"
    for ask in (storage.list_files, storage.exists, storage.is_folder, storage.read_bytes):
        with pytest.raises(InputError, match="places in archives"):
            ask(url)
    assert main(["info", f"zip://images/model.safetensors::{tmp_path}/a.zip"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.rstrip().endswith("cannot be used; unpack the one, rename the other")


def test_one_place_is_known_however_its_scheme_is_written() -> None:
    assert storage.full_path("S3://Bucket/a") == "s3://Bucket/a/"
    with pytest.raises(InputError, match="s3://b/x: read by the same command"):
        storage.check_apart(["S3://b/x"], ["s3://b/x"])


def test_free_space_is_asked_where_the_folder_will_be(tmp_path: Path) -> None:
    assert storage.free_bytes(tmp_path / "not" / "yet") == pytest.approx(storage.free_bytes(tmp_path), rel=0.1)
    assert storage.free_bytes("memory://a") is None
