"""The service's addresses: `/predict`, `/health`, `/info`, `/metrics` and the page at `/`."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from steel.errors import NotFiniteError, OutOfMemoryError, out_of_memory_as
from steel.images.decode import count_pixels, decode_image
from steel.images.pixel_format import TooManyPixels
from steel.inference.base_predictor import BasePredictor
from steel.inference.prediction import Prediction
from steel.serving.body import read_body
from steel.serving.formats import Format, choose_format
from steel.serving.limits import BUSY, Limits, Quota, Refusal
from steel.serving.metrics import Metrics
from steel.serving.page import POLICY, make_page
from steel.serving.queue import PredictionQueue
from steel.serving.refusals import error_response

_LONGEST_NAME = 200
_GONE = 499
"""What the metrics call a request whose client has left, as nginx does."""


class Service:
    """A predictor and what its requests share."""

    def __init__(self, predictor: BasePredictor, info: Mapping[str, Any], limits: Limits) -> None:
        """Nothing runs before the app of `build_app` does.

        Args:
            predictor: used by this service alone.
            info: what `/info` says; its `validation` is what drift is measured against.
            limits: what is taken on.
        """
        self._predictor = predictor
        self._info = info
        self._limits = limits
        self._page = make_page()
        self._numbers = count(1)
        self._places = Quota(limits.places, f"{limits.places} requests are under way")
        self._bytes = Quota(limits.upload_bytes, "too many bytes of images are under way")
        self._pixels = Quota(limits.pixels_held, "too many pixels of images are under way")
        self.queue = PredictionQueue(predictor, limits.batch_wait_s, lambda images: self._metrics.batch(images))
        self._metrics = Metrics(
            predictor.class_names, info["validation"], self.queue.__len__, lambda: self._places.taken
        )

    async def page(self, request: Request) -> Response:
        """The page for people."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": POLICY})

    async def health(self, request: Request) -> Response:
        """200 while images are predicted."""
        if not self.queue.is_running:
            raise Refusal(BUSY, "no images are predicted any more; start the server again")
        return JSONResponse({"status": "ok"})

    async def info(self, request: Request) -> Response:
        """What is served."""
        return JSONResponse(self._info)

    async def metrics(self, request: Request) -> Response:
        """Counters for Prometheus."""
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def predict(self, request: Request) -> Response:
        """The prediction for the image in the body."""
        begun = time.monotonic()
        status = 500
        try:
            response = await self._respond(request)
            status = response.status_code
        except Refusal as refusal:
            status = refusal.status
            raise
        except ClientDisconnect:
            status = _GONE
            return Response(status_code=_GONE)  # which nobody reads
        finally:
            self._metrics.request(status, time.monotonic() - begun)
        return response

    async def _respond(self, request: Request) -> Response:
        form = choose_format(request.query_params.get("format"), ", ".join(request.headers.getlist("accept")))
        try:
            with out_of_memory_as("try again, or send a smaller image"):
                return await self._answer(request, form)
        except OutOfMemoryError as error:
            raise Refusal(BUSY, str(error)) from error
        except NotFiniteError as error:
            raise Refusal(500, str(error)) from error

    async def _answer(self, request: Request, form: Format) -> Response:
        name = request.query_params.get("name") or str(next(self._numbers))
        with self._bytes.hold() as held_bytes, self._places.hold() as place, self._pixels.hold() as held_pixels:
            data = await read_body(request, self._limits, held_bytes)
            place.add(1)
            held_pixels.add(await asyncio.to_thread(_pixels_within, data, self._limits.pixels))
            image = await asyncio.to_thread(self._decode, data)
            prediction = await self._predicted(request, name[:_LONGEST_NAME], image)
            content = await asyncio.to_thread(form.encode, prediction)
        self._metrics.prediction(prediction)
        return _response(form, content, prediction)

    def _decode(self, data: bytes) -> np.ndarray:
        try:
            return decode_image(data, self._predictor.in_channels, self._predictor.depth)
        except ValueError as error:
            raise _refusal(error) from error

    async def _predicted(self, request: Request, name: str, image: np.ndarray) -> Prediction:
        """An image's prediction, for which no pass begins any more once the client has left.

        One that runs by then holds the image to its end, and so does this.
        """
        job = self.queue.put(name, image)
        future = asyncio.wrap_future(job)
        gone = asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait((future, gone), return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                raise ClientDisconnect
            return future.result()
        finally:
            gone.cancel()
            job.cancel()
            await asyncio.gather(future, return_exceptions=True)


def build_app(predictor: BasePredictor, info: Mapping[str, Any], limits: Limits) -> Starlette:
    """The application; the arguments are those of `Service`."""
    service = Service(predictor, info, limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.queue.start()
        yield
        await asyncio.to_thread(service.queue.close)

    routes = [
        Route("/", service.page),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/health", service.health),
        Route("/info", service.info),
        Route("/metrics", service.metrics),
    ]
    handlers: dict[Any, Any] = {Refusal: _on_refusal, HTTPException: _on_http, Exception: _on_defect}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False  # that answer is empty, and few clients send an image twice
    return app


def _pixels_within(data: bytes, limit: int) -> int:
    """The pixels of an image file, by its header; raises Refusal for what is none, and where there are too many."""
    if not data:
        raise Refusal(400, "an empty body; send the image's bytes: curl --data-binary @image.jpg")
    try:
        pixels = count_pixels(data)
    except ValueError as error:
        raise _refusal(error) from error
    if pixels > limit:
        raise Refusal(413, f"an image of {pixels:,} pixels; this server takes up to {limit:,}")
    return pixels


def _refusal(error: ValueError) -> Refusal:
    """What is said of a file that cannot be decoded."""
    if isinstance(error, TooManyPixels):
        return Refusal(413, str(error))
    is_image = "not a readable image" not in str(error)
    is_damaged = str(error).startswith("damaged")
    hint = "; curl sends a file whole with --data-binary, and not with -d" if is_damaged else ""
    return Refusal(400 if is_image else 415, f"{error}{hint}")


async def _until_gone(request: Request) -> None:
    """Returns when the client closes the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(form: Format, content: bytes, prediction: Prediction) -> Response:
    verdict = "defective" if prediction.class_ids else "clean"
    return Response(content, media_type=form.media_type, headers={"Steel-Verdict": verdict})


async def _on_refusal(request: Request, refusal: Refusal) -> Response:
    return error_response(refusal.status, str(refusal))


async def _on_http(request: Request, error: HTTPException) -> Response:
    lines = {404: "no such address; there are /, /predict, /health, /info and /metrics"}
    if allowed := (error.headers or {}).get("Allow"):
        lines[405] = f"{request.method} is not for {request.url.path}; it takes {allowed}"
    return error_response(error.status_code, lines.get(error.status_code, error.detail), error.headers)


async def _on_defect(request: Request, error: Exception) -> Response:
    return error_response(500, "the prediction failed; the server's log says why")
