"""Clients that hang, against the protocol alone: it closes their connections, and no others."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn")

SIZE = 20_000_000
"""More than all buffers between the two hold."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """20 MB for everyone."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(SIZE).encode())]})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


@pytest.fixture
def server() -> Iterator[Any]:
    from steel.serving.protocol import impatient_protocol

    listener = socket.create_server(("127.0.0.1", 0))
    protocol = impatient_protocol(head_s=0.3, unread_s=0.5)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", log_level="critical"))
    server.address = listener.getsockname()
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield server
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def gone(server: Any, seconds: float) -> bool:
    """Whether the server has no connection any more, soon."""
    deadline = time.monotonic() + seconds
    while server.server_state.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    return not server.server_state.connections


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\nA: "])
def test_who_begins_no_request_is_let_go(server: Any, sent: bytes) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""
        assert gone(server, 5)


def test_who_reads_nothing_is_let_go(server: Any) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        assert server.server_state.connections, "not at once"
        assert gone(server, 5)


def test_who_reads_gets_all_and_may_ask_again(server: Any) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        for _ in range(2):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            received = connection.recv(1 << 20)
            size = received.index(b"\r\n\r\n") + 4 + SIZE
            count = len(received)
            while count < size:
                count += len(connection.recv(1 << 20))
            assert count == size
            time.sleep(0.4)  # longer than for the headers
