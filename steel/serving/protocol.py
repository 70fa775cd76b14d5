"""uvicorn's HTTP with bounds: by itself it waits for as long as a connection is open, and refuses in its own words."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from steel.serving.body import drop_rest
from steel.serving.limits import BUSY, Limits
from steel.serving.refusals import error_response


def bounded_protocol(limits: Limits) -> type[H11Protocol]:
    """A protocol for `uvicorn.Config.http` that closes connections of clients that hang, and refuses those beyond the
    most that may be open."""
    too_many = error_response(BUSY, f"too busy: {limits.connections} connections are open; try again in a second")

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await drop_rest(Request(scope, receive))
        await too_many(scope, receive, send)

    class BoundedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
            self._head = _Alarm(self.loop, limits.head_s, transport.abort)
            self._unread = _Alarm(self.loop, limits.unread_s, transport.abort)
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.app = refuse
            transport.set_write_buffer_limits(high=0)  # `pause_writing` whenever anything is unread
            self._head.set()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._head.set()
            else:
                self._head.clear()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread.set()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unread.clear()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._head.clear()
            self._unread.clear()

        def send_400_response(self, msg: str) -> None:
            response = error_response(HTTPStatus.BAD_REQUEST, "no request of HTTP/1.1 that can be read")
            head = h11.Response(status_code=response.status_code, headers=response.raw_headers, reason=b"Bad Request")
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return BoundedProtocol


class _Alarm:
    """A call that is due some time after it was first set, unless it is cleared."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], Any]) -> None:
        self._loop, self._seconds, self._call = loop, seconds, call
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._call)

    def clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
