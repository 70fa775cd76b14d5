"""A folder on a web server of this machine, whose listings hold names alone."""

import http.server
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path


class _Handler(http.server.SimpleHTTPRequestHandler):
    untold: Collection[str] = ()

    def send_header(self, keyword: str, value: str) -> None:
        if keyword not in self.untold:
            super().send_header(keyword, value)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_folder(folder: Path, *untold: str) -> Iterator[str]:
    """The URL of a folder, whatever the query; `untold` are headers that its files come without."""
    handler = type("Handler", (_Handler,), {"untold": untold})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
