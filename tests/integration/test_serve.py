"""`steel serve` over real sockets, in a process of its own, with a tiny model."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import cv2
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import steel
from steel.cli import main
from tests.paths import ROOT
from tests.serving import CLASS_NAMES, Server, save_tiny_model, serving

for package in ("starlette", "uvicorn", "prometheus_client", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

EXPECTED = {"images": 12, "defective_share": 0.25, "mean_probabilities": [0.5, 0.25, 0.125]}
IMPATIENT = """
import dataclasses, steel.commands.serving as s
made = s._limits
s._limits = lambda a: dataclasses.replace(made(a), upload_s=0.6, head_s=0.6)
"""
SLOW = """
import time
from steel.inference.onnx_predictor import OnnxPredictor
stream = OnnxPredictor._stream
OnnxPredictor._stream = lambda self, batches, cleared: (time.sleep(2) or one for one in stream(self, batches, cleared))
"""


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def noise(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    save_tiny_model(folder / "model.safetensors", {"validation": EXPECTED})
    assert main(["export", str(folder / "model.safetensors"), "--onnx", str(folder / "model.onnx")]) == 0
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with serving(model, "--max-megabytes", "1", "--max-megapixels", "2", code=IMPATIENT) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> steel.Prediction:
    """The library's own prediction of the file that is posted."""
    path = tmp_path_factory.mktemp("image") / "a.png"
    path.write_bytes(png(noise(60, 90)))
    (prediction,) = steel.load_predictor(model, device="cpu").predict(path)
    assert prediction.class_ids == (1, 2)
    return prediction


def test_every_form_is_what_the_library_predicts(server: Server, expected: steel.Prediction, tmp_path: Path) -> None:
    body = png(noise(60, 90))
    reply = server.ask("/predict?name=a.png", body)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.headers["steel-verdict"] == "defective"
    assert reply.json == json.loads(json.dumps({**expected.to_dict(), "image": "a.png"}))
    label_map = server.ask("/predict", body, {"Accept": "image/png"})
    assert label_map.headers["content-type"] == "image/png"
    decoded = cv2.imdecode(np.frombuffer(label_map.body, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, expected.label_map())
    overlay = server.ask("/predict?format=overlay", body)
    assert overlay.headers["content-type"] == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(overlay.body, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    Image.fromarray(expected.overlay()).save(tmp_path / "a.jpg", quality=95)  # not by what encodes it for the service
    assert np.abs(drawn.astype(int) - np.asarray(Image.open(tmp_path / "a.jpg"))).mean() < 2


@pytest.mark.parametrize("ending", [".jpg", ".bmp", ".webp", ".tiff"])
def test_other_files(server: Server, ending: str) -> None:
    image = noise(33, 47, 3)
    reply = server.ask("/predict", cv2.imencode(ending, image)[1].tobytes(), {"Content-Type": "image/x"})
    assert reply.status == 200
    assert (reply.json["height"], reply.json["width"]) == (33, 47)


def png_header(width: int, height: int) -> bytes:
    """A PNG that is whole as far as its chunks go, of a size that it has no pixels for."""
    chunks = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"0"), b"IEND"
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


WHOLE = png(noise(20, 30))
BAD = {
    "empty": (b"", {}, 400, "an empty body"),
    "text": (b"hello", {}, 415, "not a readable image (JPEG, PNG, TIFF, BMP or WebP)"),
    "cut": (WHOLE[:-20], {}, 400, "damaged PNG: cut short"),
    "damaged": (WHOLE[:60] + b"\0\1" + WHOLE[62:], {}, 400, "damaged PNG: wrong checksum"),
    "header alone": (b"\xff\xd8\xff", {}, 400, "damaged or unusual JPEG"),
    "bmp header": (b"BM\0", {}, 400, "; curl sends a file whole with --data-binary, and not with -d"),
    "bytes": (b"x" * 1_000_001, {}, 413, "the body is larger than 1,000,000 bytes"),
    "pixels": (png(np.zeros((2000, 1001), np.uint8)), {}, 413, "2,002,000 pixels; this server takes up to 2,000,000"),
    "bomb": (png(np.zeros((30_000, 3000), np.uint8)), {}, 413, "90,000,000 pixels"),
    "header of a bomb": (png_header(100_000, 100_000), {}, 413, "100000x100000 pixels: at most 1,073,741,824 are read"),
    "16 bits": (png(noise(8, 8).astype(np.uint16) << 8), {}, 400, "16 bits a pixel"),
    "form": (WHOLE, {"Content-Type": "multipart/form-data; boundary=x"}, 415, "not a form"),
    "packed": (WHOLE, {"Content-Encoding": "gzip"}, 415, "Content-Encoding gzip"),
    "accept": (WHOLE, {"Accept": "text/html"}, 406, "application/json, image/png, image/jpeg"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_line(server: Server, name: str) -> None:
    body, headers, status, line = BAD[name]
    reply = server.ask("/predict", body, headers)
    assert (reply.status, list(reply.json)) == (status, ["error"])
    assert line in reply.json["error"] and "\n" not in reply.json["error"]
    assert server.ask("/predict", WHOLE).status == 200, "the server goes on"


def test_other_addresses_and_methods(server: Server) -> None:
    assert "there are /, /predict" in server.ask("/none").json["error"]
    assert server.ask("/none").status == 404
    assert server.ask("/../../etc/passwd").status == 404
    refused = server.ask("/predict")
    assert (refused.status, refused.headers["allow"]) == (405, "POST")
    assert refused.json["error"] == "GET is not for /predict; it takes POST"
    assert server.ask("/predict?format=tiff", WHOLE).json["error"].endswith("choose from json, labelmap, overlay")


def test_chunks_without_a_length_are_bounded_too(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", b""),
        (b"POST /pre", b""),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc", b"HTTP/1.1 408 "),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
    ],
    ids=["nothing", "half a line", "half a body", "no HTTP"],
)
def test_a_client_that_hangs_is_let_go(server: Server, sent: bytes, said: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent)
        received = b""
        while chunk := _received(connection):
            received += chunk
    assert received.startswith(said)
    assert bool(received) == bool(said)
    assert server.ask("/health").json == {"status": "ok"}


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def test_metrics_count_and_compare_with_validation(model: Path) -> None:
    images = [noise(40, 56, seed=k) for k in range(3)]
    with serving(model) as server:
        found = [server.ask("/predict", png(image)).json for image in images]
        server.ask("/predict", b"no image")
        assert server.metric('steel_requests_total{status="200"}') == 3
        assert server.metric('steel_requests_total{status="415"}') == 1
        assert server.metric("steel_request_seconds_count") == 4
        assert server.metric("steel_batch_images_sum") == 3
        verdicts = [one["verdict"] == "defective" for one in found]
        assert server.metric('steel_images_total{verdict="defective"}') == sum(verdicts)
        assert server.metric("steel_recent_defective_share") == pytest.approx(sum(verdicts) / 3)
        mean = sum(one["probabilities"]["any"] for one in found) / 3
        assert server.metric('steel_recent_mean_probability{target="any"}') == pytest.approx(mean, abs=1e-4)
        assert server.metric("steel_validation_defective_share") == 0.25
        for target, value in zip(("any", *CLASS_NAMES), (0.5, 0.25, 0.125), strict=True):
            assert server.metric(f'steel_validation_mean_probability{{target="{target}"}}') == value
        info = server.ask("/info").json
        assert (info["file"], info["class_names"], info["validation"]) == ("model.onnx", list(CLASS_NAMES), EXPECTED)
        assert str(model.parent) not in json.dumps(info)


def test_no_secret_of_the_models_url_is_told(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from steel.serving import server as module

    def say(predictor, source, listener, limits, on_start) -> None:  # type: ignore[no-untyped-def]
        on_start()
        print(json.dumps(module.describe_service(predictor, source, limits)))

    monkeypatch.setattr(module, "serve", say)
    url = "memory://user:5ecret@host/model.onnx?token=5ecret"
    fsspec.filesystem("memory").pipe(url, model.read_bytes())
    reads, cat_file = [], MemoryFileSystem.cat_file
    monkeypatch.setattr(
        MemoryFileSystem, "cat_file", lambda self, path, *a, **k: reads.append(path) or cat_file(self, path, *a, **k)
    )
    assert main(["serve", url, "--port", "0", "--device", "cpu"]) == 0
    assert len(reads) == 1, "fetched once"
    line, info = capsys.readouterr().out.splitlines()
    assert line.startswith("memory://host/model.onnx: served at http://127.0.0.1:")
    assert json.loads(info)["file"] == "model.onnx" and "5ecret" not in info


def test_concurrent_clients_get_their_own_predictions(server: Server, model: Path) -> None:
    images = [noise(24 + 8 * (k % 3), 40, seed=k) for k in range(24)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda image: server.ask("/predict", png(image)).json, images))
    for one, prediction in zip(found, steel.load_predictor(model, device="cpu").predict(images), strict=True):
        assert {**one, "image": ""} == json.loads(json.dumps({**prediction.to_dict(), "image": ""}))


def test_when_it_is_full_others_are_refused_and_sigterm_finishes_what_is_under_way(model: Path) -> None:
    with serving(model, "--max-requests", "1", code=SLOW) as server, ThreadPoolExecutor(1) as thread:
        first = thread.submit(server.ask, "/predict", WHOLE)
        wait_for(server, "steel_requests_under_way", 1)
        refused = server.ask("/predict", WHOLE)
        assert refused.status == 503
        assert refused.json["error"] == "too busy: 1 requests are under way; try again in a second"
        assert refused.headers["retry-after"] == "1"
        assert server.ask("/health").status == 200
        assert not first.done()
        assert server.stop() == 0
        assert first.result(10).status == 200


def test_a_client_that_leaves_is_not_predicted_and_gives_its_place_back(model: Path) -> None:
    with serving(model, "--max-requests", "2", code=SLOW) as server, ThreadPoolExecutor(1) as thread:
        first = thread.submit(server.ask, "/predict", WHOLE)
        wait_for(server, "steel_batch_images_sum", 1)
        with server.connect() as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(WHOLE)}\r\n\r\n"
            connection.sendall(head.encode() + WHOLE)
            wait_for(server, "steel_waiting_images", 1)
        wait_for(server, "steel_requests_under_way", 1)
        assert server.metric("steel_waiting_images") == 0 and not first.done(), "its image is held no longer"
        assert server.metric('steel_requests_total{status="499"}') == 1
        assert first.result(10).status == 200
        assert server.ask("/predict", WHOLE).status == 200
        assert server.metric("steel_batch_images_sum") == 2, "the first and the last"
        assert server.stop() == 0


def test_a_client_that_leaves_while_its_image_is_predicted_keeps_its_place_that_long(model: Path) -> None:
    with serving(model, "--max-requests", "1", code=SLOW) as server:
        with server.connect() as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(WHOLE)}\r\n\r\n"
            connection.sendall(head.encode() + WHOLE)
            wait_for(server, "steel_batch_images_sum", 1)
        assert server.ask("/predict", WHOLE).status == 503
        wait_for(server, "steel_requests_under_way", 0)
        assert server.metric('steel_requests_total{status="499"}') == 1
        assert server.ask("/predict", WHOLE).status == 200
        assert server.stop() == 0


def wait_for(server: Server, line: str, value: float) -> None:
    """Until a metric has a value."""
    deadline = time.monotonic() + 10
    while server.metric(line) != value:
        assert time.monotonic() < deadline, line


def test_a_checkpoint_is_served_with_torch(model: Path) -> None:
    checkpoint = model.with_suffix(".safetensors")
    image = noise(40, 56)
    (prediction,) = steel.load_predictor(checkpoint, device="cpu").predict(image)
    with serving(checkpoint) as server:
        assert server.ask("/predict?name=0", png(image)).json == json.loads(json.dumps(prediction.to_dict()))
        assert server.stop() == 0


def test_the_page_of_the_docs_is_true(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "serve.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(cv2.imencode(".jpg", noise(24, 40))[1].tobytes())
    exec(compile(example.replace("8000", str(server.port)), "docs/serve.md", "exec"), {})
    assert capsys.readouterr().out.startswith("a.jpg defective [")
    rows = re.findall(r"^\| (`[a-z_]+.*?) \| ", text[text.index("## What `/metrics`") :], re.MULTILINE)
    documented = {"steel_" + name for row in rows for name in re.findall(r"`(\w+)(?:\{\w+\})?`", row)}
    families = re.findall(r"^# TYPE (\S+) (\S+)$", server.ask("/metrics").body.decode(), re.MULTILINE)
    assert documented == {name for name, _ in families if not name.endswith("_created")}


def test_a_start_that_nobody_can_be_told_of_is_one_line(model: Path) -> None:
    line = [sys.executable, "-m", "steel", "serve", str(model), "--port", "0", "--device", "cpu"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device: while writing; make room there or choose another place\n"
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as unread:
        done = subprocess.run(line, cwd=ROOT, stdout=unread, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (141, "")


def fail_to_start(model: Path, code: str) -> tuple[int, str, str]:
    """The exit code of a service in whose process `code` was run first, and what it said to both streams."""
    program = f"import sys\n{code}\nfrom steel.cli import main\nsys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", program, "serve", str(model), "--port", "0", "--device", "cpu"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_what_the_one_who_is_told_of_the_start_raises_ends_the_service(model: Path) -> None:
    code = """
import steel.commands.serving as s
def refuse(*_, **__): raise s.InputError("no room in the log")
s.print = refuse
"""
    assert fail_to_start(model, code) == (2, "", "error: no room in the log\n")


def test_a_service_that_cannot_predict_is_not_told_as_started(model: Path) -> None:
    code = """
from steel.serving.queue import PredictionQueue
def refuse(self): raise RuntimeError("no thread to be had")
PredictionQueue.start = refuse
"""
    status, out, err = fail_to_start(model, code)
    assert (status, out) == (3, "")  # by uvicorn 0.50; before it was 0
    assert "no thread to be had" in err


WATCHED = """
import os, sys
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(lambda event, what: os.write(log, f"{{what[0]}}\\n".encode()) if event in {events} else None)
"""
DISK = ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.scandir", "os.listdir")


def test_nothing_of_a_request_reaches_the_disk(model: Path, tmp_path: Path) -> None:
    """A file's own path as name, too; what the program opens it has opened with the first requests."""
    log, image = tmp_path / "log", tmp_path / "a.png"
    image.write_bytes(WHOLE)
    with serving(model, code=WATCHED.format(log=str(log), events=DISK)) as server:
        for _ in range(2):
            before = log.read_text()
            for form in ("json", "labelmap", "overlay"):
                for name in (str(image), "../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1/x"):
                    assert server.ask(f"/predict?format={form}&name={quote(name)}", WHOLE).status == 200
                    assert server.ask(f"/predict?format={form}&name={quote(name)}", name.encode()).status == 415
            assert server.ask(f"/{image}").status == 404
        assert log.read_text() == before
        assert str(image) not in before and "passwd" not in before and before.count("model.onnx") >= 1


def test_a_port_in_use_and_a_missing_package_are_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(model), "--port", str(port)]) == 2
        assert (
            capsys.readouterr().err
            == f"error: 127.0.0.1:{port}: Address already in use; give another --host or --port\n"
        )
    with pytest.raises(SystemExit):
        main(["serve", str(model), "--port", "99999"])
    assert "99999 is not from 0 to 65535" in capsys.readouterr().err
    assert main(["serve", str(model), "--port", "0", "--host", "no.such.name.invalid"]) == 2
    assert capsys.readouterr().err.startswith("error: no.such.name.invalid:0: ")
    for host in (f"{'a' * 64}.com", "a..b"):
        assert main(["serve", str(model), "--port", "0", "--host", host]) == 2
        assert capsys.readouterr().err == f"error: {host}:0: not a name that a host may have; give another --host\n"
    assert main(["serve", str(model.with_name("none.onnx")), "--port", "0"]) == 2
    assert capsys.readouterr().err.endswith("none.onnx: no such file\n")
    code = "import sys; sys.modules['uvicorn'] = None; from steel.cli import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, "serve", str(model)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: serving needs the package uvicorn: pip install 'steel-defects[serve]'\n"
