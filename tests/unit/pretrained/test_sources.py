"""Where weights are looked for, and what is said when they are not to be had; all without a network."""

import json
import re
import ssl
from pathlib import Path
from urllib.error import URLError

import pytest
from huggingface_hub import constants

from steel import storage
from steel.errors import InputError
from steel.pretrained import sources
from steel.pretrained.licences import is_permissive, licence_text, smp_licence, told_licence
from steel.pretrained.sources import Settings, find_published, read_source
from steel.pretrained.stem import Normalisation
from tests.weight_server import WAYS_OUT, Files, point_hub_at


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


def test_offline_without_the_file_is_one_line_with_three_ways_out(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=rf"'resnet34' from smp-hub/resnet34\.imagenet.*not in the cache.*{WAYS_OUT}"):
        read_source("hub", "resnet34")


def test_a_hub_that_refuses_at_once_says_so(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match=rf"Connect.*{WAYS_OUT}") as caught:
        read_source("hub", "tu-resnet18")
    assert "\n" not in str(caught.value)


def refuse_certificate(*_: object) -> None:
    """As httpx and urllib do, which OpenSSL tells of the proxy's."""
    words = "certificate verify failed: unable to get local issuer certificate"
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {words} {'signed by nobody ' * 20}")
    try:
        raise error
    except ssl.SSLError:
        raise URLError(error)  # noqa: B904 - the context is what httpx and urllib leave


@pytest.mark.parametrize("weights", ["hub", "https://localhost/w.pth", "s3://bucket/w.pth"])
def test_a_certificate_that_is_refused_has_a_way_out_of_its_own(
    weights: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fetch_from_hub", "fetch_url", "fetch_stored"):
        monkeypatch.setattr(sources, name, refuse_certificate)
    with pytest.raises(InputError, match=rf"SSL_CERT_FILE.*AWS_CA_BUNDLE.*{WAYS_OUT}") as caught:
        read_source(weights, "resnet34")
    assert re.search(r"local issuer certificate (signed by nobody )+(signed )?(by )?\.\.\.", str(caught.value))


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


def test_licences_by_where_smp_has_its_weights_from() -> None:
    found = {name: licence_text(smp_licence(name, "imagenet")) for name in ("resnet34", "efficientnet-b3", "mit_b2")}
    assert found == {
        "resnet34": "BSD-3-Clause",
        "efficientnet-b3": "Apache-2.0",
        "mit_b2": "NVIDIA Source Code License for SegFormer (non-commercial)",
    }
    assert licence_text(smp_licence("resnet18", "swsl")).startswith("CC BY-NC")
    assert told_licence("tu-convnext_tiny", "https://host/a/dinov3_convnext_tiny.pth") == "dinov3-license"
    assert told_licence("tu-convnext_tiny", "/w/nvidia/mit-b2/pytorch_model.bin") == "nvidia-segformer"
    assert told_licence("tu-vit_small_patch16_dinov3", "w.pth") == "dinov3-license"
    assert told_licence("resnet34", "/dinov3/here/resnet34.pth") is None
    assert told_licence("resnet34", "runs/submit_best/model.safetensors") is None
    assert told_licence("resnet34", "/data/commit-b12/w.pth") is None
    assert told_licence("mit_b2", "w.pth") == told_licence("resnet34", "segformer_mit_b5.pth") == "nvidia-segformer"
    assert licence_text(None).startswith("not recorded") and licence_text("gemma") == "gemma"
