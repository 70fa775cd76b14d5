"""Files by path and URL: nothing half-written under a final name."""

import errno
import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from steel import storage
from steel.cli import main
from steel.errors import InputError
from steel.validation_errors import ValidationErrors
from tests.web_folder import serve_folder


@pytest.fixture(params=["path", "file", "FILE", "memory", "MEMORY"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder as a path, as a local URL and in a remote store."""
    if request.param.lower() == "memory":
        fsspec.filesystem("memory").store.clear()
        return f"{request.param}://bucket/folder"
    return str(tmp_path) if request.param == "path" else f"{request.param}://{tmp_path}"


def fill(root: str) -> None:
    for name in ("b.jpg", "a/c.PNG", "a/d.txt", ".hidden/e.jpg", "a/.f.jpg"):
        storage.make_folder(storage.join(root, *name.split("/")[:-1]))
        storage.write_bytes(storage.join(root, name), name.encode())


def test_files_are_listed_below_a_folder(root: str) -> None:
    fill(root)
    assert [file[:2] for file in storage.list_files(root)] == [("a/c.PNG", 7), ("a/d.txt", 7), ("b.jpg", 5)]
    assert [file.path for file in storage.list_files(root, (".jpg", ".png"))] == ["a/c.PNG", "b.jpg"]


def test_files_are_read_whole_and_in_part(root: str) -> None:
    storage.write_bytes(storage.join(root, "x"), b"0123456789")
    assert storage.read_bytes(storage.join(root, "x")) == b"0123456789"
    assert storage.read_range(storage.join(root, "x"), 2, 3) == b"234"
    assert storage.read_range(storage.join(root, "x"), 8, 5) == b"89"
    with storage.local_copy(storage.join(root, "x")) as path:
        assert path.read_bytes() == b"0123456789"


def test_of_a_web_server_that_knows_no_ranges_a_part_is_read_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "x").write_bytes(b"0123456789")
    asked = (0, 3), (2, 3), (8, 5), (0, 10), (0, 20), (8, 50), (12, 9)
    with serve_folder(tmp_path) as url:
        parts = [storage.read_range(f"{url}/x", *part) for part in asked]
    assert parts == [b"012", b"234", b"89", b"0123456789", b"0123456789", b"89", b""]


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


def test_places_in_the_current_folder_and_in_the_root() -> None:
    assert storage.join("", "a", "b") == "a/b"
    assert storage.join("/", "a") == "/a"
    assert storage.join("c/", "a") == "c/a"


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="labels: a folder; give the name of the file to write"):
        storage.write_text(tmp_path / "labels", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_missing_things_are_told(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "nothing"))
    with pytest.raises(InputError, match="no such folder"):
        storage.list_files(storage.join(root, "nothing"))


def test_an_empty_folder_is_listed_as_that(root: str) -> None:
    if storage.is_remote(root):
        fsspec.filesystem("memory").makedirs(root, exist_ok=True)
    assert storage.list_files(root) == []


@pytest.mark.parametrize("remove", [storage.remove, storage.remove_at_once])
def test_files_and_folders_are_removed(root: str, remove: Callable[[str], None]) -> None:
    fill(root)
    remove(storage.join(root, "a"))
    remove(storage.join(root, "b.jpg"))
    remove(storage.join(root, "nothing"))
    assert not storage.exists(storage.join(root, "a", "d.txt"))
    assert not storage.exists(storage.join(root, "b.jpg"))
    assert [file.path for file in storage.list_files(storage.join(root, ".hidden"))] == ["e.jpg"]
    if not storage.is_remote(root):
        assert os.listdir(storage.local_path(root)) == [".hidden"]


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


def test_a_store_may_be_read_by_way_of_copies_on_this_machine() -> None:
    """Which is a chain, too, but names are joined to the store's own."""
    storage.write_bytes("memory://copied/x", b"1")
    assert [file.path for file in storage.list_files("simplecache::memory://copied")] == ["x"]
    assert storage.read_bytes("simplecache::memory://copied/x") == b"1"


def test_one_place_is_known_however_its_scheme_is_written() -> None:
    assert storage.full_path("S3://Bucket/a") == "s3://Bucket/a/"
    with pytest.raises(InputError, match="s3://b/x: read by the same command"):
        storage.check_apart(["S3://b/x"], ["s3://b/x"])


def test_free_space_is_asked_where_the_folder_will_be(tmp_path: Path) -> None:
    assert storage.free_bytes(tmp_path / "not" / "yet") == pytest.approx(storage.free_bytes(tmp_path), rel=0.1)
    assert storage.free_bytes("memory://a") is None


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
