"""Clients that hang, are too many, or do not speak HTTP, against the protocol alone."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from steel.serving.limits import Limits

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

SIZE = 20_000_000
"""More than all buffers between the two hold."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """20 MB for everyone."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(SIZE).encode())]})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One that is impatient, unless a test has other limits."""
    from steel.serving.protocol import bounded_protocol

    listener = socket.create_server(("127.0.0.1", 0))
    protocol = bounded_protocol(getattr(request, "param", Limits(head_s=0.3, unread_s=0.5)))
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


def check_refused(response: HTTPResponse, status: int, message: str) -> None:
    """It is one line of JSON, and the last."""
    assert (response.status, response.getheader("Content-Type")) == (status, "application/json")
    assert response.getheader("Connection") == "close"
    assert response.getheader("Retry-After") == ("1" if status == 503 else None)
    assert json.loads(response.read()) == {"error": message}


@pytest.mark.parametrize("server", [Limits(connections=2)], indirect=True)
def test_who_comes_beyond_the_most_connections_is_refused_and_nobody_else(server: Any) -> None:
    host, port = server.address
    with contextlib.ExitStack() as stack:
        first, _ = (stack.enter_context(socket.create_connection(server.address, timeout=10)) for _ in range(2))
        while len(server.server_state.connections) < 2:
            time.sleep(0.01)
        refused = stack.enter_context(contextlib.closing(HTTPConnection(host, port, timeout=10)))
        refused.request("POST", "/", bytes(SIZE))
        check_refused(refused.getresponse(), 503, "too busy: 2 connections are open; try again in a second")
        first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(15) == b"HTTP/1.1 200 OK"
    assert gone(server, 5)


def test_what_is_no_request_is_refused_in_one_line(server: Any) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        response = HTTPResponse(connection)
        response.begin()
        check_refused(response, 400, "no request of HTTP/1.1 that can be read")
        assert connection.recv(10) == b""
