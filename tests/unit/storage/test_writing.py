"""Nothing half-written under a final name."""

import errno
import os
from pathlib import Path

import pytest

from steel import storage
from steel.errors import InputError


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="labels: a folder; give the name of the file to write"):
        storage.write_text(tmp_path / "labels", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_a_failed_write_leaves_what_was_there(root: str, tmp_path: Path) -> None:
    url = storage.join(root, "x")
    storage.write_bytes(url, b"old")
    before = set(os.listdir(tmp_path))
    with pytest.raises(RuntimeError), storage.open_write(url, staging=tmp_path) as file:  # noqa: PT012
        file.write(b"new")
        raise RuntimeError
    assert storage.read_bytes(url) == b"old"
    assert set(os.listdir(tmp_path)) == before


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="x") as error, storage.open_write(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_a_file_comes_from_a_staging_folder_on_another_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the folder of the final name is a link: no name moves from one to the other, but within each."""
    replace = os.replace

    def replace_here(source: str, target: Path) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_here)
    (tmp_path / "staging").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/x").write_bytes(b"old")
    storage.write_bytes(tmp_path / "there/x", b"new", staging=tmp_path / "staging")
    assert (tmp_path / "there/x").read_bytes() == b"new"
    assert (os.listdir(tmp_path / "staging"), os.listdir(tmp_path / "there")) == ([], ["x"])


def test_a_folder_appears_whole_in_place_of_an_empty_one_and_as_no_other(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with storage.open_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
        assert not os.listdir(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["a"]
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(("written", "named"), [(None, "out"), ("a/b.png", "out/a/b.png"), ("", "out")])
def test_what_a_folder_has_no_room_for_is_told_by_the_name_that_was_given(
    written: str | None, named: str, tmp_path: Path
) -> None:
    """And not by the hidden one, which nobody has chosen and which is gone; writing names no file at all."""
    with pytest.raises(OSError, match="No space") as error, storage.open_folder(tmp_path / "out") as folder:  # noqa: PT012
        name = None if written is None else str(folder / written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    assert error.value.filename == str(tmp_path / named)
    assert os.listdir(tmp_path) == []


def test_what_is_read_meanwhile_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, storage.open_folder(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()
    assert error.value.filename == str(tmp_path / "missing")


def test_a_file_that_cannot_be_begun_is_told_by_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as error, storage.open_write(tmp_path / "none" / "x"):
        pass
    assert error.value.filename == str(tmp_path / "none" / "x")


def test_files_have_ordinary_permissions(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "mine", b"")
    (tmp_path / "usual").write_bytes(b"")
    assert (tmp_path / "mine").stat().st_mode == (tmp_path / "usual").stat().st_mode
