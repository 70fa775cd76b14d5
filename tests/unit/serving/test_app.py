"""What the service makes of faults in its own process, asked without a socket."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest

from steel.config import TilingConfig
from steel.decision import default_decision
from steel.images.decode import count_pixels
from steel.images.pixel_format import EIGHT_BITS
from steel.inference.base_predictor import BasePredictor
from steel.inference.batching import Cleared, ImageProbs
from steel.serving.limits import Limits, Refusal
from tests.image_files import by_pillow

for package in ("starlette", "prometheus_client"):
    pytest.importorskip(package)

IMAGE = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()


class Clean(BasePredictor):
    """Finds nothing."""

    class_names = ("spot",)
    decision = default_decision(1)
    in_channels, stride, input_size, depth = 1, 1, None, EIGHT_BITS
    tiling = TilingConfig()

    def __init__(self) -> None:
        super().__init__(64, default=64)

    def model_digest(self) -> str:
        return "of no weights"

    def _stream(self, batches: Iterable[np.ndarray], cleared: Cleared | None) -> Iterator[ImageProbs]:
        for batch in batches:
            yield ImageProbs(np.zeros_like(batch), np.zeros((len(batch), 2), np.uint8), np.ones(len(batch), bool))


class Broken(Clean):
    """Says nothing of any image."""

    precision = "no"

    def _stream(self, batches: Iterable[np.ndarray], cleared: Cleared | None) -> Iterator[ImageProbs]:
        for probs in super()._stream(batches, cleared):
            yield probs._replace(is_finite=~probs.is_finite)


def ask(
    predictor: BasePredictor | None = None,
    data: bytes = IMAGE,
    limits: Limits | None = None,
    accept: Iterable[bytes] = (),
) -> int:
    """The status that `/predict` answers an image with, of a predictor that finds nothing unless another is given."""
    from starlette.requests import Request

    from steel.serving.app import Service

    service = Service(predictor or Clean(), {"validation": None}, limits or Limits())

    async def predict() -> int:
        body = iter([{"type": "http.request", "body": data, "more_body": False}])

        async def receive() -> dict[str, object]:
            for message in body:
                return message
            await asyncio.Event().wait()
            raise AssertionError

        headers = [(b"accept", value) for value in accept]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
        return (await service.predict(Request(scope, receive))).status_code

    service.queue.start()
    try:
        with ThreadPoolExecutor(1) as apart:  # this thread may have a loop that runs already, as a browser's is
            return apart.submit(asyncio.run, predict()).result()
    finally:
        service.queue.close()


@pytest.mark.parametrize(
    "step", ["steel.serving.app.decode_image", "steel.serving.formats.Prediction.to_dict"], ids=["decode", "encode"]
)
def test_too_little_memory_is_told_as_such(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask() == 200

    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(step, refuse)
    with pytest.raises(Refusal, match=r"^out of memory \(the host refused memory\); try again, or") as refused:
        ask()
    assert refused.value.status == 503


def test_what_is_accepted_may_stand_in_several_headers() -> None:
    assert ask(accept=[b"text/html", b"image/png, text/plain"]) == 200
    with pytest.raises(Refusal, match=r"^nothing to be had that is accepted: ") as refused:
        ask(accept=[b"*/*", b"image/png;q=0", b"image/*;q=0", b"application/json;q=0"])
    assert refused.value.status == 406


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_of_too_many_pixels_is_refused_before_any_is_decoded(
    compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, limits = by_pillow(np.zeros((30, 50), np.uint8), "TIFF", compression=compression), Limits(pixels=1499)
    assert ask(data=data, limits=Limits(pixels=1500)) == 200
    monkeypatch.setattr("steel.serving.app.decode_image", lambda *_: pytest.fail("decoded"))
    for name in ("read_by_pillow", "_inflate"):
        monkeypatch.setattr(f"steel.images.tiff.{name}", lambda *_: pytest.fail("decoded"))
    with pytest.raises(Refusal, match=r"^an image of 1,500 pixels; this server takes up to 1,499$") as refused:
        ask(data=data, limits=limits)
    assert refused.value.status == 413


def test_a_file_that_is_found_damaged_as_it_is_decoded_has_the_same_hint() -> None:
    data = by_pillow(np.zeros((30, 50), np.uint8), "TIFF", compression="tiff_adobe_deflate")
    data = data[:10] + b"\xff\xff" + data[12:]  # in its strip, which comes first
    assert count_pixels(data) == 1500
    with pytest.raises(Refusal, match=r"^damaged TIFF: .*; curl sends a file whole with --data-binary") as refused:
        ask(data=data)
    assert refused.value.status == 400


def test_an_answer_that_is_not_finite_is_none() -> None:
    with pytest.raises(Refusal, match="the network's answer is not finite") as refused:
        ask(Broken())
    assert refused.value.status == 500


@pytest.mark.parametrize(("method", "path"), [("POST", "/predict/"), ("GET", "/health/"), ("GET", "/none")])
def test_an_address_with_a_slash_behind_it_is_another_address(method: str, path: str) -> None:
    from steel.serving.app import build_app

    app, sent = build_app(Clean(), {"validation": None}, Limits()), list[dict[str, Any]]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": IMAGE, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    with ThreadPoolExecutor(1) as apart:
        apart.submit(asyncio.run, app(scope, receive, send)).result()
    start, content = sent
    assert start["status"] == 404
    assert json.loads(content["body"])["error"].startswith("no such address; there are /, /predict")
