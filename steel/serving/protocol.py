"""uvicorn's HTTP with bounds on a client's patience: by itself it waits for as long as a connection is open."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient_protocol(head_s: float, unread_s: float) -> type[H11Protocol]:
    """A protocol for `uvicorn.Config.http` that closes connections of clients that hang.

    Args:
        head_s: from opening a connection, or from the first byte of a further request, to the end of its headers.
        unread_s: how long a client may take to read what was sent, with what it has not read waiting here.
    """

    class ImpatientProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
            self._head = _Alarm(self.loop, head_s, transport.abort)
            self._unread = _Alarm(self.loop, unread_s, transport.abort)
            super().connection_made(transport)
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

    return ImpatientProtocol


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
