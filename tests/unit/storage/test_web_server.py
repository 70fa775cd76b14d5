"""Folders of a web server, which tells what it likes."""

import os
from pathlib import Path

import pytest

from steel import storage
from steel.validation_errors import ValidationErrors
from tests.web_folder import serve_folder


def test_of_a_web_server_that_knows_no_ranges_a_part_is_read_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "x").write_bytes(b"0123456789")
    asked = (0, 3), (2, 3), (8, 5), (0, 10), (0, 20), (8, 50), (12, 9)
    with serve_folder(tmp_path) as url:
        parts = [storage.read_range(f"{url}/x", *part) for part in asked]
    assert parts == [b"012", b"234", b"89", b"0123456789", b"0123456789", b"89", b""]


def test_files_on_a_web_server_have_sizes_and_versions(tmp_path: Path) -> None:
    """Which its listings do not hold."""
    pytest.importorskip("aiohttp")
    (tmp_path / "a").mkdir()
    sizes = {"a/full.png": 3, "a/empty.png": 0, "b.txt": 5}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    with serve_folder(tmp_path) as url:
        first = storage.list_files(url)
        assert {file.path: file.size for file in first} == sizes
        assert [file.path for file in storage.list_files(f"{url}/", (".png",))] == ["a/empty.png", "a/full.png"]
        for second in (1, 2):
            os.utime(tmp_path / "a/full.png", (second, second))
            now = storage.list_files(url)
            assert {file.path for file in set(now) - set(first)} == {"a/full.png"}
            info = storage.file_info(f"{url}/a/full.png")
            assert info is not None and info.version == now[1].version
            first = now


def test_what_a_web_server_does_not_tell_is_not_known(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "x").write_bytes(b"123")
    with serve_folder(tmp_path, "Last-Modified") as url:
        assert storage.list_files(url) == [("x", 3, "")]
    with serve_folder(tmp_path, "Last-Modified", "Content-Length") as url:
        assert storage.list_files(url) == [("x", None, "")]
        with pytest.raises(OSError, match="does not tell its size") as untold:
            storage.file_size(f"{url}/x")
        assert untold.value.filename == f"{url}/x"


def test_links_of_a_web_page_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    names = "x.png", "gone.png", "gone.txt"
    (tmp_path / "index.html").write_text(" ".join(f'<a href="{name}">{name}</a>' for name in names))
    (tmp_path / "x.png").touch()
    with serve_folder(tmp_path) as url:
        with pytest.raises(ValidationErrors, match=r"links that lead nowhere: gone\.png"):
            storage.list_files(url, (".png",))
        (tmp_path / "gone.png").touch()
        assert [file[:2] for file in storage.list_files(url, (".png",))] == [("gone.png", 0), ("x.png", 0)]
