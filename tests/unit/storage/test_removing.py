"""What is removed goes, and nothing else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from steel import storage


@pytest.mark.parametrize("remove", [storage.remove, storage.remove_at_once])
def test_files_and_folders_are_removed(filled: str, remove: Callable[[str], None]) -> None:
    remove(storage.join(filled, "a"))
    remove(storage.join(filled, "b.jpg"))
    remove(storage.join(filled, "nothing"))
    assert not storage.exists(storage.join(filled, "a", "d.txt"))
    assert not storage.exists(storage.join(filled, "b.jpg"))
    assert [file.path for file in storage.list_files(storage.join(filled, ".hidden"))] == ["e.jpg"]
    if not storage.is_remote(filled):
        assert os.listdir(storage.local_path(filled)) == [".hidden"]


@pytest.mark.parametrize("overtaken_by", ["a file", "all"])
def test_two_may_remove_one_folder_at_a_time(
    overtaken_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One finds files gone that it has seen, and has the rest to remove."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    for name in ("a", "b", "below/c"):
        (folder / name).touch()
    unlink = os.unlink

    def overtaken(*names: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "unlink", unlink)
        if overtaken_by == "all":
            shutil.rmtree(folder)
        else:
            unlink(*names, **options)
        unlink(*names, **options)

    monkeypatch.setattr(os, "unlink", overtaken)
    storage.remove(folder)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_what_is_removed_is_no_pattern(root: str, name: str) -> None:
    names = (f"{name}/x.tar", f"{name}/.unfinished/*.rows", f"{name}/.unfinished/[a]", f"{name}/y[1]", f"{name}/y1")
    for one in ("run1/.unfinished/a.rows", "run1/y1", *names):
        storage.make_folder(storage.join(root, *one.split("/")[:-1]))
        storage.write_bytes(storage.join(root, one), b"")
    storage.remove(storage.join(root, name, ".unfinished"))
    storage.remove(storage.join(root, name, "y[1]"))
    assert {file.path for file in storage.list_files(root)} == {"run1/y1", f"{name}/x.tar", f"{name}/y1"}
    assert storage.exists(storage.join(root, "run1/.unfinished/a.rows"))
    assert not storage.exists(storage.join(root, name, ".unfinished"))


def test_folders_of_a_store_go_with_what_is_in_them() -> None:
    store = fsspec.filesystem("memory")
    store.makedirs("/made/a/b")
    storage.write_bytes("memory://made/a/x", b"1")
    storage.remove("memory://made/a")
    assert store.ls("/made") == []
