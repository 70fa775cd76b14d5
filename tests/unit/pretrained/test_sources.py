"""Where weights are looked for, and what is said when they are not to be had; all without a network."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from steel.errors import InputError
from steel.pretrained import sources
from steel.pretrained.licences import is_permissive, licence_text, smp_licence
from steel.pretrained.sources import find_published, read_source


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


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """A web server on this machine, and its files; what is None is never answered."""
    files: dict[str, bytes | None] = {}
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files.get(self.path, b"")
            if data is None:
                done.wait(20)
                return
            self.send_response(200 if data else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_HEAD = do_GET

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
    settings = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_space": "RGB"}
    fill(
        hub,
        published.repository,
        {"model.safetensors": b"weights", "config.json": json.dumps(settings).encode()},
        published.revision,
    )
    source = read_source("hub", "resnet34")
    assert source.data == b"weights" and source.name.startswith("smp-hub/resnet34.imagenet@")
    assert (source.settings["mean"], source.settings["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert licence_text(source.settings["license"]) == "BSD-3-Clause"


def test_timms_weights_may_be_in_the_older_form(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fill(hub, "timm/convnext_tiny.dinov3_lvd1689m", {"pytorch_model.bin": b"old"})
    source = read_source("hub", "tu-convnext_tiny.dinov3_lvd1689m")
    assert (source.data, source.name) == (b"old", "timm/convnext_tiny.dinov3_lvd1689m")
    assert not is_permissive(licence_text(source.settings["license"]))


WAYS_OUT = r"HF_HOME.*HF_HUB_OFFLINE=1.*HF_ENDPOINT.*--model\.weights PATH"


def test_offline_without_the_file_is_one_line_with_three_ways_out(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=rf"'resnet34' from smp-hub/resnet34\.imagenet.*not in the cache.*{WAYS_OUT}"):
        read_source("hub", "resnet34")


def test_ten_seconds_are_enough() -> None:
    assert sources.ANSWER_S < 10


def test_a_hub_that_never_answers_is_given_up_in_time(
    hub: Path, server: tuple[str, dict[str, bytes | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, files = server
    point_hub_at(url, monkeypatch)
    monkeypatch.setattr(sources, "ANSWER_S", 0.4)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    published = find_published("resnet34")
    files[f"/{published.repository}/resolve/{published.revision}/model.safetensors"] = None
    begun = time.monotonic()
    with pytest.raises(InputError, match=rf"no weights for encoder 'resnet34'.*{WAYS_OUT}"):
        read_source("hub", "resnet34")
    assert time.monotonic() - begun < 3


def test_a_hub_that_refuses_at_once_says_so(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match=rf"Connect.*{WAYS_OUT}") as caught:
        read_source("hub", "tu-resnet18")
    assert "\n" not in str(caught.value)


def test_names_without_published_weights_lead_to_those_with(hub: Path) -> None:
    with pytest.raises(InputError, match=r"nobody has published weights.*tu-convnext_tiny\.fb_in1k"):
        read_source("hub", "tu-convnext_tiny.no_such_tag")


def test_files_folders_and_urls(tmp_path: Path, server: tuple[str, dict[str, bytes | None]]) -> None:
    url, files = server
    (tmp_path / "model.safetensors").write_bytes(b"safe")
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    settings = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "license": "mit"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    files["/w.pth"] = b"over http"
    assert read_source(str(tmp_path / "pytorch_model.bin"), "resnet18").data == b"old"
    folder = read_source(str(tmp_path), "resnet18")
    assert (folder.data, folder.settings["license"], folder.settings["std"]) == (b"safe", "mit", [0.25] * 3)
    assert read_source(f"{url}/w.pth", "resnet18").data == b"over http"
    assert read_source(f"file://{tmp_path}/model.safetensors", "resnet18").data == b"safe"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("absent.pth", "absent.pth: no such file"),
        ("http://127.0.0.1:9/w.pth", r"cannot be fetched \(URLError.*--model.weights PATH"),
        ("nostore://bucket/w.pth", "nostore"),
    ],
)
def test_what_is_not_there_is_one_line(weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_source(weights, "resnet18")
    assert "\n" not in str(caught.value)


def test_a_url_that_never_answers_is_given_up_in_time(
    server: tuple[str, dict[str, bytes | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, files = server
    files["/slow.pth"] = None
    monkeypatch.setattr(sources, "ANSWER_S", 0.3)
    with pytest.raises(InputError, match=r"slow\.pth: cannot be fetched \(TimeoutError"):
        read_source(f"{url}/slow.pth", "resnet18")


def test_licences_by_where_smp_has_its_weights_from() -> None:
    found = {name: licence_text(smp_licence(name, "imagenet")) for name in ("resnet34", "efficientnet-b3", "mit_b2")}
    assert found == {
        "resnet34": "BSD-3-Clause",
        "efficientnet-b3": "Apache-2.0",
        "mit_b2": "NVIDIA Source Code License for SegFormer (non-commercial)",
    }
    assert licence_text(smp_licence("resnet18", "swsl")).startswith("CC BY-NC")
    assert licence_text(None).startswith("not recorded") and licence_text("gemma") == "gemma"
