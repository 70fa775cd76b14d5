"""Files are listed and read alike by path and by URL."""

import os

import fsspec
import pytest

from steel import storage
from steel.errors import InputError


def test_files_are_listed_below_a_folder(filled: str) -> None:
    assert [file[:2] for file in storage.list_files(filled)] == [("a/c.PNG", 7), ("a/d.txt", 7), ("b.jpg", 5)]
    assert [file.path for file in storage.list_files(filled, (".jpg", ".png"))] == ["a/c.PNG", "b.jpg"]


def test_files_are_read_whole_and_in_part(root: str) -> None:
    storage.write_bytes(storage.join(root, "x"), b"0123456789")
    assert storage.read_bytes(storage.join(root, "x")) == b"0123456789"
    assert storage.read_range(storage.join(root, "x"), 2, 3) == b"234"
    assert storage.read_range(storage.join(root, "x"), 8, 5) == b"89"
    with storage.local_copy(storage.join(root, "x")) as path:
        assert path.read_bytes() == b"0123456789"


def test_existence_and_size(root: str) -> None:
    url = storage.join(root, "x")
    assert not storage.exists(url)
    assert storage.file_size(url) is None
    storage.write_bytes(url, b"123")
    assert storage.exists(url)
    assert storage.file_size(url) == 3


def test_a_file_that_is_written_again_has_another_version(root: str) -> None:
    """Also one of the same size."""
    url = storage.join(root, "x")
    assert storage.file_info(url) is None
    versions = []
    for second, data in enumerate((b"123", b"456")):
        storage.write_bytes(url, data)
        if not storage.is_remote(url):
            os.utime(storage.local_path(url), (second, second))
        infos = [storage.file_info(url), *storage.list_files(root)]
        assert infos == [storage.file_info(url), *storage.list_files(root)]
        assert [info and info[:2] for info in infos] == [("x", 3)] * 2
        versions.append([info and info.version for info in infos])
    assert all(first != second for first, second in zip(*versions, strict=True))


def test_missing_things_are_told(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "nothing"))
    with pytest.raises(InputError, match="no such folder"):
        storage.list_files(storage.join(root, "nothing"))


def test_an_empty_folder_is_listed_as_that(root: str) -> None:
    if storage.is_remote(root):
        fsspec.filesystem("memory").makedirs(root, exist_ok=True)
    assert storage.list_files(root) == []
