"""What stores and their libraries say when something is wrong."""

import errno
import socket
from pathlib import Path
from typing import NoReturn

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from steel import storage
from steel.cli import main
from steel.errors import InputError


class Shut(MemoryFileSystem):
    """A store that nobody has the rights for."""

    protocol = "shut"

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError("Unable to locate credentials\nand more")

    info = exists = isdir = find = cat_file = get_file = put_file = rm = _refuse


def test_what_a_store_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Libraries have exceptions of their own for missing rights and networks."""
    fsspec.register_implementation("shut", Shut, clobber=True)
    url = "shut://bucket/x"
    for ask in (
        storage.exists,
        storage.is_folder,
        storage.file_info,
        storage.list_files,
        storage.read_bytes,
        storage.remove,
        lambda url: storage.read_range(url, 0, 1),
        lambda url: storage.download(url, tmp_path / "x"),
        lambda url: storage.write_bytes(url, b"1"),
    ):
        with pytest.raises(OSError, match=f"Unable to locate credentials: '{url}'") as refused:
            ask(url)
        assert refused.value.errno == errno.EIO
    assert main(["info", url]) == 1
    assert capsys.readouterr().err == f"error: Unable to locate credentials: {url}\n"


class Answer(Exception):
    """As HTTP's library raises for an answer that is not what was asked for, and with no status where none came."""

    __module__ = "aiohttp.client_exceptions"

    def __init__(self, status: int | None) -> None:
        super().__init__(f"status {status}")
        if status is not None:
            self.status = status


@pytest.mark.parametrize(
    ("cause", "is_absent"),
    [
        *((None, True), (KeyError("a"), True), (Answer(404), True), (Answer(410), True)),
        *((Answer(403), False), (Answer(503), False), (Answer(None), False), (TimeoutError("slow"), False)),
        (ConnectionRefusedError("refused"), False),
    ],
)
@pytest.mark.parametrize("ask", [storage.exists, storage.file_size, storage.list_files, storage.read_bytes])
def test_a_store_out_of_reach_is_not_taken_for_one_without_the_file(ask, cause, is_absent, monkeypatch) -> None:
    """Some libraries say `FileNotFoundError` of both."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise FileNotFoundError("memory://bucket/x") from cause

    monkeypatch.setattr(MemoryFileSystem, "info", fail)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    if not is_absent:
        with pytest.raises(OSError, match=str(cause)) as caught:
            ask("memory://bucket/x")
        assert caught.value.filename == "memory://bucket/x"
        assert not isinstance(caught.value, FileNotFoundError)
    elif ask in (storage.exists, storage.file_size):
        assert not ask("memory://bucket/x")
    else:
        with pytest.raises(InputError if ask is storage.list_files else FileNotFoundError):
            ask("memory://bucket/x")


def test_a_dead_host_is_told(capsys) -> None:
    pytest.importorskip("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"http://127.0.0.1:{free.getsockname()[1]}"  # closed below, and nobody listens
    assert main(["info", f"{host}/model.safetensors"]) == 1
    assert "Cannot connect" in capsys.readouterr().err
    assert main(["info", f"{host.replace('//', '//user:5ecret@')}/model.safetensors?sig=5ecret"]) == 1
    told = capsys.readouterr().err
    assert "5ecret" not in told
    assert told.startswith("error: ClientConnectorError: http")
    assert told.rstrip().endswith("/model.safetensors")


def test_a_store_may_be_read_by_way_of_copies_on_this_machine() -> None:
    """Which is a chain, too, but names are joined to the store's own."""
    storage.write_bytes("memory://copied/x", b"1")
    assert [file.path for file in storage.list_files("simplecache::memory://copied")] == ["x"]
    assert storage.read_bytes("simplecache::memory://copied/x") == b"1"
