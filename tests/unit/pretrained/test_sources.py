"""Where weights are looked for, and what is said when they are not to be had; all without a network."""

import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import fsspec
import huggingface_hub
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import constants, file_download
from huggingface_hub.errors import EntryNotFoundError

from steel import storage
from steel.errors import InputError, run_program
from steel.pretrained import downloads, sources
from steel.pretrained.licences import is_permissive, licence_text, smp_licence
from steel.pretrained.sources import Settings, find_published, read_source
from steel.pretrained.stem import Normalisation


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def fill(hub: Path, repository: str, files: dict[str, bytes], revision: str | None = None) -> None:
    """Lay files into the cache as a download does."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / (revision or "abc123")
    snapshot.mkdir(parents=True)
    for name, data in files.items():
        (snapshot / name).write_bytes(data)
    if revision is None:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("abc123")


@dataclass(frozen=True)
class Reply:
    """A file that comes in pieces, each after a pause."""

    pieces: tuple[bytes, ...] = ()
    pause: float = 0
    stalls: bool = False
    """Half of what was promised never comes."""
    late: float = 0
    """Seconds before the head is answered."""

    @property
    def length(self) -> int:
        return max(1, len(b"".join(self.pieces)) * (1 + self.stalls))


Files = dict[str, bytes | Reply | None]


@pytest.fixture
def server() -> Iterator[tuple[str, Files]]:
    """A web server on this machine, and its files; what is None is never answered."""
    files: Files = {}
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(is_head=True)

        def do_GET(self) -> None:
            self.answer(is_head=False)

        def answer(self, *, is_head: bool) -> None:
            reply = files.get(self.path, b"")
            if isinstance(reply, bytes):
                reply = Reply((reply,) if reply else ())
            elif reply is None or not (is_head or reply.pieces):
                done.wait(20)
                return
            done.wait(reply.late if is_head else 0)
            refused = re.search(r"/answers-(\d+)", self.path)
            is_there = self.path in files
            code = 200 if is_there else int(refused[1]) if refused else 404
            if self.path.startswith("/login/") and self.headers["Authorization"] != "Basic dXNlcjpwQHNz":
                code = 401
            self.send_response(code)
            self.send_header("Content-Length", str(reply.length if code == 200 else 0))
            self.send_header("ETag", '"abc"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.end_headers()
            for piece in () if is_head else reply.pieces:
                done.wait(reply.pause)
                self.wfile.write(piece)
            if reply.stalls and not is_head:
                done.wait(20)

        def log_message(self, *_: object) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}", files
    done.set()
    web.shutdown()
    web.server_close()


def point_hub_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `HF_ENDPOINT` does before the hub's library is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)


def test_the_hubs_cache_is_enough(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    published = find_published("resnet34")
    settings = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": ""}
    fill(
        hub,
        published.repository,
        {"model.safetensors": b"weights", "config.json": json.dumps(settings).encode()},
        published.revision,
    )
    source = read_source("hub", "resnet34")
    assert source.data == b"weights" and source.name.startswith("smp-hub/resnet34.imagenet@")
    assert source.settings.inputs() == Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert licence_text(source.settings.licence) == "BSD-3-Clause"


def test_timms_weights_may_be_in_the_older_form(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fill(hub, "timm/convnext_tiny.dinov3_lvd1689m", {"pytorch_model.bin": b"old"})
    source = read_source("hub", "tu-convnext_tiny.dinov3_lvd1689m")
    assert (source.data, source.name) == (b"old", "timm/convnext_tiny.dinov3_lvd1689m")
    assert not is_permissive(licence_text(source.settings.licence))


WAYS_OUT = r"three ways out: .*HF_HOME.*HF_HUB_OFFLINE=1.*HF_ENDPOINT.*--model\.weights PATH"


def test_offline_without_the_file_is_one_line_with_three_ways_out(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=rf"'resnet34' from smp-hub/resnet34\.imagenet.*not in the cache.*{WAYS_OUT}"):
        read_source("hub", "resnet34")


def test_ten_seconds_are_enough() -> None:
    assert downloads.SILENCE_S * 1.05 < 10  # looked at twenty times


PIECE = b"weights!" * 2048
"""As much as the hub's library is made to write at a time."""
SILENT = [None, Reply(), Reply((PIECE,) * 3, stalls=True)]
"""Nothing answers; the head alone is; some comes, and no more."""
STEADY = Reply((PIECE,) * 12, pause=0.1)
"""Takes three times as long as silence may last in these tests."""


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SILENCE_S", 0.4)


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


def test_a_hub_that_refuses_at_once_says_so(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match=rf"Connect.*{WAYS_OUT}") as caught:
        read_source("hub", "tu-resnet18")
    assert "\n" not in str(caught.value)


def test_names_without_published_weights_lead_to_those_with(hub: Path) -> None:
    with pytest.raises(InputError, match=r"nobody has published weights.*tu-convnext_tiny\.fb_in1k"):
        read_source("hub", "tu-convnext_tiny.no_such_tag")


def test_files_folders_and_urls(tmp_path: Path, server: tuple[str, Files]) -> None:
    url, files = server
    (tmp_path / "model.safetensors").write_bytes(b"safe")
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    settings = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "license": "mit"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    files["/w.pth"] = b"over http"
    assert read_source(str(tmp_path / "pytorch_model.bin"), "resnet18").data == b"old"
    folder = read_source(str(tmp_path), "resnet18")
    assert (folder.data, folder.settings.licence) == (b"safe", "mit")
    assert folder.settings.inputs() == HALVES
    assert read_source(f"{url}/w.pth", "resnet18").data == b"over http"
    by_url = read_source(f"file://{tmp_path}/model.safetensors", "resnet18")
    assert (by_url.data, by_url.settings.inputs()) == (b"safe", HALVES)


HALVES = Normalisation((0.5,) * 3, (0.25,) * 3)
BESIDE = json.dumps({"mean": [0.5] * 3, "std": [0.25] * 3, "license": "mit"}).encode()


def test_settings_beside_remote_weights_are_read(server: tuple[str, Files], caplog: pytest.LogCaptureFixture) -> None:
    url, files = server
    files |= {"/a/w.pth?key=1": b"weights", "/a/config.json?key=1": BESIDE, "/b/w.pth": b"weights"}
    source = read_source(f"{url}/a/w.pth?key=1", "resnet18")
    assert (source.settings.inputs(), source.settings.licence) == (HALVES, "mit")
    assert source.settings.place == f"{url}/a/config.json"
    for folder in ("memory://a", "memory://b"):
        storage.write_bytes(f"{folder}/model.safetensors", b"weights")
    storage.write_bytes("memory://a/config.json", BESIDE)
    assert read_source("memory://a/", "resnet18").settings.inputs() == HALVES
    for absent in (f"{url}/b/w.pth", "memory://b/model.safetensors"):
        assert read_source(absent, "resnet18").settings == Settings()
    assert not caplog.records


@pytest.mark.usefixtures("brief")
def test_settings_that_cannot_be_had_are_told_and_no_error(
    server: tuple[str, Files], caplog: pytest.LogCaptureFixture
) -> None:
    url, files = server
    files |= {"/answers-403/w.pth": b"weights", "/slow/w.pth": b"weights", "/slow/config.json": None}
    for folder, reason in (("answers-403", "403 Forbidden"), ("slow", "TimeoutError: ")):
        assert read_source(f"{url}/{folder}/w.pth", "resnet18").settings == Settings()
        assert f"no settings from {url}/{folder}/config.json ({reason}" in caplog.text


@pytest.mark.parametrize(
    "data", [b'{"pretrained_cfg": null}', b"[1]", b"<html>", b"[" * 100_000, b"\xff", b'{"std": 1}']
)
def test_another_programs_settings_are_none(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(data)
    assert read_source(str(tmp_path / "w.pth"), "resnet18").settings.inputs() is None


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (0.5, 0.5),
        ([0.5] * 4, [0.5] * 4),
        ([0.5] * 3, [0.5]),
        ([0.5] * 3, [0.0, 0.5, 0.5]),
        ([123.7, 116.3, 103.5], [1.0] * 3),
        (["0.5"] * 3, [0.5] * 3),
        ([0.5] * 3, [True] * 3),
        ([], []),
        ([float("nan")], [0.5]),
        ([0.5], [10**400]),
    ],
)
def test_a_normalisation_that_cannot_be_is_one_line(mean: object, std: object, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": mean, "std": std}}))
    with pytest.raises(InputError) as caught:
        read_source(str(tmp_path / "w.pth"), "resnet18").settings.inputs()
    said = str(caught.value)
    assert said.startswith(f"model.weights: {tmp_path}/config.json has mean ") and "\n" not in said
    assert said.endswith("or give --model.mean and --model.std") and len(said) < 400


def test_a_login_and_a_signature_are_sent_and_not_told(server: tuple[str, Files]) -> None:
    url, files = server
    files["/login/w.pth?sig=5ecret"] = b"weights"
    secret = url.replace("://", "://user:p%40ss@")
    source = read_source(f"{secret}/login/w.pth?sig=5ecret", "resnet18")
    assert (source.data, source.name) == (b"weights", f"{url}/login/w.pth")
    with pytest.raises(InputError, match=r"login/w\.pth: not for everybody"):
        read_source(f"{url}/login/w.pth?sig=5ecret", "resnet18")


@pytest.mark.parametrize(
    "weights",
    [
        "http://user:5ecret@127.0.0.1:9/w.pth?sig=5ecret",
        "http://127.0.0.1:9/a b.pth?sig=5ecret",
        "http://user:5ec#5ecret@127.0.0.1:9/w.pth",
        "http://[5ecret@127.0.0.1/w.pth?5ecret",
        "nostore://user:5ecret@host/w.pth?5ecret",
        "memory://user:5ecret@host/w.pth?5ecret",
        "ftp://user:5ecret@127.0.0.1:9/w.pth?5ecret",
    ],
)
def test_no_error_tells_a_secret(weights: str) -> None:
    with pytest.raises(InputError) as caught:
        read_source(weights, "resnet18")
    assert "5ec" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("absent.pth", "absent.pth: no such file"),
        ("http://127.0.0.1:9/w.pth", rf"cannot be fetched \(ConnectionRefusedError: .*{WAYS_OUT}"),
        ("nostore://bucket/w.pth", "nostore"),
    ],
)
def test_what_is_not_there_is_one_line(weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_source(weights, "resnet18")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.pth", "no such file there (the server answers 404 Not Found); check the address"),
        ("answers-403.pth", "not for everybody (the server answers 403 Forbidden); fetch it with your login"),
        ("answers-503.pth", "cannot be fetched (the server answers 503 Service Unavailable); try again later"),
    ],
)
def test_a_server_that_sends_no_file_is_no_matter_of_the_network(
    path: str, message: str, server: tuple[str, Files]
) -> None:
    url = f"{server[0]}/{path}"
    with pytest.raises(InputError) as caught:
        read_source(url, "resnet18")
    assert str(caught.value) == f"model.weights {url}: {message}, or give a file, hub or none: docs/pretrained.md"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "no such file there (the server answers 404 Not Found); check HF_ENDPOINT, if it is set"),
        ("answers-401", "not for everybody (the server answers 401 Unauthorized); log in (HF_TOKEN)"),
        ("answers-403", "not for everybody (the server answers 403 Forbidden); log in (HF_TOKEN)"),
        ("answers-503", "cannot be fetched (the server answers 503 Service Unavailable); try again later"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_hub_that_sends_no_file_is_no_matter_of_the_network(
    path: str, message: str, server: tuple[str, Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_hub_at(f"{server[0]}/{path}", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError) as caught:
        read_source("hub", "resnet34")
    said = "model.weights hub: no weights for encoder 'resnet34' from smp-hub/resnet34.imagenet (model.safetensors): "
    assert str(caught.value) == f"{said}{message}, or give a file or none: docs/pretrained.md"


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


def test_licences_by_where_smp_has_its_weights_from() -> None:
    found = {name: licence_text(smp_licence(name, "imagenet")) for name in ("resnet34", "efficientnet-b3", "mit_b2")}
    assert found == {
        "resnet34": "BSD-3-Clause",
        "efficientnet-b3": "Apache-2.0",
        "mit_b2": "NVIDIA Source Code License for SegFormer (non-commercial)",
    }
    assert licence_text(smp_licence("resnet18", "swsl")).startswith("CC BY-NC")
    assert licence_text(None).startswith("not recorded") and licence_text("gemma") == "gemma"
