"""What the service makes of faults in its own process, asked without a socket."""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from steel.config import TilingConfig
from steel.decision import default_decision
from steel.images.pixel_format import EIGHT_BITS
from steel.inference.base_predictor import BasePredictor
from steel.inference.batching import Cleared, ImageProbs
from steel.serving.limits import Limits, Refusal

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


def ask(predictor: BasePredictor | None = None) -> int:
    """The status that `/predict` answers an image with, of a predictor that finds nothing unless another is given."""
    from starlette.requests import Request

    from steel.serving.app import Service

    service = Service(predictor or Clean(), {"validation": None}, Limits())

    async def predict() -> int:
        body = iter([{"type": "http.request", "body": IMAGE, "more_body": False}])

        async def receive() -> dict[str, object]:
            for message in body:
                return message
            await asyncio.Event().wait()
            raise AssertionError

        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
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


def test_an_answer_that_is_not_finite_is_none() -> None:
    with pytest.raises(Refusal, match="the network's answer is not finite") as refused:
        ask(Broken())
    assert refused.value.status == 500
