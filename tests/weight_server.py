"""A web server with an encoder's weights, on this machine, in the place of others' and of the hub."""

import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from huggingface_hub import constants, file_download

WAYS_OUT = r"three ways out: .*HF_HOME.*HF_HUB_OFFLINE=1.*HF_ENDPOINT.*--model\.weights PATH"


@dataclass(frozen=True)
class Reply:
    """A file that comes in pieces, each after a pause."""

    pieces: tuple[bytes, ...] = ()
    pause: float = 0
    stalls: bool = False
    """Half of what was promised never comes."""
    late: float = 0
    """Seconds before the head is answered."""

    @property
    def length(self) -> int:
        return max(1, len(b"".join(self.pieces)) * (1 + self.stalls))


Files = dict[str, bytes | Reply | None]


def serve_files() -> Iterator[tuple[str, Files]]:
    """A web server on this machine, and its files; what is None is never answered."""
    files: Files = {}
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(is_head=True)

        def do_GET(self) -> None:
            self.answer(is_head=False)

        def answer(self, *, is_head: bool) -> None:
            reply = files.get(self.path, b"")
            if isinstance(reply, bytes):
                reply = Reply((reply,) if reply else ())
            elif reply is None or not (is_head or reply.pieces):
                done.wait(20)
                return
            done.wait(reply.late if is_head else 0)
            refused = re.search(r"/answers-(\d+)", self.path)
            is_there = self.path in files
            code = 200 if is_there else int(refused[1]) if refused else 404
            if self.path.startswith("/login/") and self.headers["Authorization"] != "Basic dXNlcjpwQHNz":
                code = 401
            self.send_response(code)
            self.send_header("Content-Length", str(reply.length if code == 200 else 0))
            self.send_header("ETag", '"abc"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.end_headers()
            for piece in () if is_head else reply.pieces:
                done.wait(reply.pause)
                self.wfile.write(piece)
            if reply.stalls and not is_head:
                done.wait(20)

        def log_message(self, *_: object) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}", files
    done.set()
    web.shutdown()
    web.server_close()


def point_hub_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `HF_ENDPOINT` does before the hub's library is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
