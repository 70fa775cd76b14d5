"""Downloads for which nothing comes any more, and those that are slow but go on; all without a network."""

import socket
import time
from typing import ClassVar

import fsspec
import huggingface_hub
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from steel import storage
from steel.errors import InputError, run_program
from steel.pretrained import downloads, sources
from steel.pretrained.sources import find_published, read_source
from tests.weight_server import WAYS_OUT, Files, Reply, point_hub_at


def test_ten_seconds_are_enough() -> None:
    assert downloads.SILENCE_S * 1.05 < 10  # looked at twenty times


PIECE = b"weights!" * 2048
"""As much as the hub's library is made to write at a time."""


SILENT = [None, Reply(), Reply((PIECE,) * 3, stalls=True)]
"""Nothing answers; the head alone is; some comes, and no more."""


STEADY = Reply((PIECE,) * 12, pause=0.1)
"""Takes three times as long as silence may last in these tests."""


def serve_resnet(server: tuple[str, Files], reply: Reply | None, monkeypatch: pytest.MonkeyPatch) -> None:
    url, files = server
    point_hub_at(url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    published = find_published("resnet34")
    files[f"/{published.repository}/resolve/{published.revision}/model.safetensors"] = reply


@pytest.mark.parametrize("reply", SILENT)
@pytest.mark.usefixtures("hub", "brief")
def test_a_hub_that_falls_silent_is_given_up_in_time(
    reply: Reply | None, server: tuple[str, Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_resnet(server, reply, monkeypatch)
    begun = time.monotonic()
    with pytest.raises(InputError, match=rf"'resnet34'.*TimeoutError: nothing came for 0\.4 s; {WAYS_OUT}") as caught:
        read_source("hub", "resnet34")
    assert time.monotonic() - begun < 3 and "\n" not in str(caught.value)


@pytest.mark.parametrize("reply", [Reply(late=1.6), Reply((b"",), late=1.6, stalls=True)])
@pytest.mark.usefixtures("hub")
def test_a_late_answer_and_the_silence_after_it_are_one_wait(
    reply: Reply, server: tuple[str, Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2 s: two would be over 3.6."""
    monkeypatch.setattr(downloads, "SILENCE_S", 2.0)
    serve_resnet(server, reply, monkeypatch)
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"TimeoutError: nothing came for 2 s"):
        read_source("hub", "resnet34")
    assert time.monotonic() - begun < 3.2


@pytest.mark.usefixtures("hub", "brief")
def test_a_slow_but_steady_download_from_the_hub_is_not_cut(
    server: tuple[str, Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_resnet(server, STEADY, monkeypatch)
    before = dict(vars(constants))
    assert read_source("hub", "resnet34").data == PIECE * 12
    assert vars(constants) == before


def test_a_silent_download_is_bad_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_silent(url: str) -> bytes:
        raise TimeoutError("nothing came for 8 s")

    monkeypatch.setattr(sources, "fetch_url", fall_silent)
    assert run_program(lambda: read_source("https://example.invalid/w.pth", "resnet18") and 0) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.usefixtures("hub", "brief")
def test_looking_for_the_file_is_one_wait(server: tuple[str, Files], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names it is looked for by: each answer alone comes in time."""
    url, _ = server
    point_hub_at(url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def answer_late(*_: object, **__: object) -> None:
        time.sleep(0.3)
        raise EntryNotFoundError("no such file")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer_late)
    with pytest.raises(InputError, match=r"TimeoutError: nothing came for 0\.4 s"):
        read_source("hub", "tu-convnext_tiny.dinov3_lvd1689m")
    monkeypatch.setattr(storage, "is_folder", lambda _: bool(time.sleep(0.3)))
    monkeypatch.setattr(storage, "file_size", lambda _: time.sleep(0.3))
    with pytest.raises(InputError, match=r"TimeoutError: nothing came for 0\.4 s"):
        read_source("memory://nowhere/w.pth", "resnet18")


@pytest.mark.usefixtures("brief")
def test_finding_a_file_in_a_store_and_its_first_piece_are_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("memory://late/w.pth", b"weights")
    of_store = storage.read_range

    def read_late(*given: object) -> bytes:
        time.sleep(0.25)
        return of_store(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "read_range", read_late)
    monkeypatch.setattr(storage, "file_size", lambda _: bool(time.sleep(0.25)) or 7)
    with pytest.raises(InputError, match=r"TimeoutError: nothing came for 0\.4 s"):
        read_source("memory://late/w.pth", "resnet18")


@pytest.mark.parametrize("reply", SILENT)
@pytest.mark.usefixtures("brief")
def test_a_url_that_falls_silent_is_given_up_in_time(reply: Reply | None, server: tuple[str, Files]) -> None:
    url, files = server
    files["/slow.pth"] = reply
    begun = time.monotonic()
    with pytest.raises(InputError, match=rf"slow\.pth: cannot be fetched \(TimeoutError.*{WAYS_OUT}") as caught:
        read_source(f"{url}/slow.pth", "resnet18")
    assert time.monotonic() - begun < 3 and "\n" not in str(caught.value)


@pytest.mark.usefixtures("brief")
def test_a_slow_but_steady_url_is_not_cut(server: tuple[str, Files]) -> None:
    url, files = server
    files["/slow.pth"] = STEADY
    assert read_source(f"{url}/slow.pth", "resnet18").data == PIECE * 12


def test_a_url_that_ends_early_is_told(server: tuple[str, Files], monkeypatch: pytest.MonkeyPatch) -> None:
    url, files = server
    files["/cut.pth"] = Reply((PIECE,))
    monkeypatch.setattr(Reply, "length", 2 * len(PIECE))
    with pytest.raises(InputError, match=rf"IncompleteRead.*{WAYS_OUT}"):
        read_source(f"{url}/cut.pth", "resnet18")


class Slow(MemoryFileSystem):
    """A store that takes a while for each piece, as long as its `stalls_after` has not come."""

    protocol = "slow"
    store: ClassVar = {}
    pieces: ClassVar[list[int]] = []
    """Bytes of each that was asked for."""
    stalls_after = 1000

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        piece = super().cat_file(path, start, end)
        self.pieces.append(len(piece))
        time.sleep(5 if len(self.pieces) > self.stalls_after else len(piece) / len(PIECE) * 0.1)
        return piece


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, brief: None) -> str:
    """A file in such a store."""
    fsspec.register_implementation("slow", Slow, clobber=True)
    monkeypatch.setattr(Slow, "pieces", [])
    monkeypatch.setattr(downloads, "PIECES", (1 << 12, 1 << 14))
    storage.write_bytes("slow://bucket/w.pth", PIECE * 6)
    return "slow://bucket/w.pth"


def test_a_slow_but_steady_store_is_not_cut(slow: str) -> None:
    assert read_source(slow, "resnet18").data == PIECE * 6
    assert max(Slow.pieces) > 1 << 12  # more at a time where it is brisk


def test_a_store_that_falls_silent_is_given_up_in_time(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "stalls_after", 3)
    begun = time.monotonic()
    with pytest.raises(InputError, match=rf"w\.pth: cannot be read \(TimeoutError: nothing came.*{WAYS_OUT}") as caught:
        read_source(slow, "resnet18")
    assert time.monotonic() - begun < 3 and "\n" not in str(caught.value)


@pytest.mark.usefixtures("brief")
def test_an_endpoint_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon's library waits a minute for each of several tries."""
    pytest.importorskip("s3fs")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        with pytest.raises(InputError, match=rf"cannot be read \(TimeoutError: nothing came.*{WAYS_OUT}"):
            read_source("s3://bucket/w.safetensors", "resnet18")
