"""Places that files are read from and written to."""

from pathlib import Path

import fsspec
import pytest

from steel import storage


@pytest.fixture(params=["path", "file", "FILE", "memory", "MEMORY"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder as a path, as a local URL and in a remote store."""
    if request.param.lower() == "memory":
        fsspec.filesystem("memory").store.clear()
        return f"{request.param}://bucket/folder"
    return str(tmp_path) if request.param == "path" else f"{request.param}://{tmp_path}"


@pytest.fixture
def filled(root: str) -> str:
    """That folder with files in it, some of them hidden."""
    for name in ("b.jpg", "a/c.PNG", "a/d.txt", ".hidden/e.jpg", "a/.f.jpg"):
        storage.make_folder(storage.join(root, *name.split("/")[:-1]))
        storage.write_bytes(storage.join(root, name), name.encode())
    return root
