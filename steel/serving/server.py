"""A process that serves a model until it is told to stop."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType
from typing import Any

import uvicorn

from steel import __version__
from steel.errors import InputError, told_url
from steel.inference.base_predictor import BasePredictor
from steel.plain import to_dict
from steel.serving.app import build_app
from steel.serving.limits import Limits
from steel.serving.protocol import bounded_protocol


def serve(
    predictor: BasePredictor, source: str, listener: socket.socket, limits: Limits, on_start: Callable[[], None]
) -> None:
    """Serve on a listening socket until SIGTERM, then finish what is under way; KeyboardInterrupt for Ctrl-C, likewise.

    Args:
        predictor: used by the service alone.
        source: the file that it was loaded from.
        listener: of `listen`; closed at the end.
        limits: what is taken on.
        on_start: called once images are predicted, and SIGTERM is heeded; what it raises ends the service.
    """
    app = build_app(predictor, describe_service(predictor, source, limits), limits)
    config = uvicorn.Config(
        app,
        http=bounded_protocol(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(limits.stop_s),
    )
    # uvicorn finishes what is under way and then raises the signal again for whoever handled it before.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    server = _Server(config, on_start)
    try:
        server.run([listener])
    finally:
        signal.signal(signal.SIGTERM, before)
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    """Says when it has started, and leaves by force when what is under way does not end: a thread that computes cannot
    be told to stop."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start
        self.failure: Exception | None = None
        """What `on_start` raised."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            self._on_start()
        except Exception as error:  # raised from here, uvicorn would print it with its traceback
            self.failure, self.should_exit = error, True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        alarm = threading.Timer((self.config.timeout_graceful_shutdown or 0) + 1, _leave)
        alarm.daemon = True
        alarm.start()


def _leave() -> None:
    print("error: what was under way took too long to finish and is dropped", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(1)


def listen(host: str, port: int, limits: Limits) -> socket.socket:
    """A socket for TCP connections; port 0 takes any that is free.

    Raises:
        InputError: the address is not to be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=limits.connections)
    except OSError as error:
        number = error.errno or 0  # negative where a name is not known
        reason = os.strerror(number) if number > 0 else error.strerror
        raise InputError(f"{host}:{port}: {reason}; give another --host or --port") from error
    except UnicodeError as error:  # what is between two dots has too many letters, or none
        raise InputError(f"{host}:{port}: not a name that a host may have; give another --host") from error


def url_of(listener: socket.socket) -> str:
    """Where a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def describe_service(predictor: BasePredictor, source: str, limits: Limits) -> dict[str, Any]:
    """What `/info` says, as plain JSON values; of the file its name alone."""
    header = predictor.header
    assert header is not None, "of a file"
    return {
        "version": __version__,
        "file": PurePath(told_url(source)).name,
        "class_names": list(predictor.class_names),
        "decision": predictor.decision.to_dict(),
        "is_tuned": predictor.is_tuned,
        "tta": list(predictor.tta),
        "input_size": None if predictor.input_size is None else list(predictor.input_size),
        "channels": predictor.in_channels,
        "depth": to_dict(predictor.depth),
        "tiling": to_dict(predictor.tiling),
        "network": header["network"],
        "folds": header["folds"],
        "validation": header["provenance"].get("validation"),
        "device": str(predictor.device),
        "precision": predictor.precision,
        "limits": {"body_bytes": limits.body_bytes, "pixels": limits.pixels, "requests": limits.places},
    }
