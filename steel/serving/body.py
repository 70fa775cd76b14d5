"""The body of a request, taken in within bounds of size and time."""

import asyncio
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request

from steel.serving.limits import Hold, Limits, Refusal

_LINGER_S = 2.0
"""How long the rest of what is refused is read and dropped: a client hears of it only once it has stopped sending."""


async def read_body(request: Request, limits: Limits, held: Hold) -> bytes:
    """All of a request's body.

    Args:
        request: whose body nobody has read.
        limits: on its size and time.
        held: grows as the body does.

    Raises:
        Refusal: too large, too slow, packed, or a form.
        ClientDisconnect: the client has left.
    """
    try:
        _check_headers(request, limits)
        async with asyncio.timeout(limits.upload_s):
            return await _gather(request, limits, held)
    except TimeoutError:
        raise Refusal(408, f"the image did not arrive within {limits.upload_s:g} seconds") from None
    except Refusal:
        await drop_rest(request)
        raise


async def drop_rest(request: Request) -> None:
    """Take in what is still to come of the body of a request that is refused, as long as that is worth it."""
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_LINGER_S):
            async for _ in request.stream():
                pass


def _check_headers(request: Request, limits: Limits) -> None:
    kind = request.headers.get("content-type", "").lower()
    if kind.startswith("multipart/"):
        raise Refusal(415, "send the image's bytes as the body, not a form: curl --data-binary @image.jpg")
    packed = request.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise Refusal(415, f"Content-Encoding {packed}: send the image file's bytes as they are")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise _too_large(limits)


async def _gather(request: Request, limits: Limits, held: Hold) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limits.body_bytes:
            raise _too_large(limits)
        held.add(len(chunk))
        body += chunk
    return bytes(body)


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the body is larger than {limits.body_bytes:,} bytes, the most that this server takes")
