"""A folder served over HTTP as S3 would (GET, HEAD, ranges; buckets are folders), each request delayed.

`python -m bench.speed.store FOLDER SECONDS` prints its port and serves until it is killed.
"""

import os
import re
import sys
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"  # connections stay open
    root: Path
    delay: float

    def do_HEAD(self) -> None:
        """Size and date of a file."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """A file, or a range of its bytes."""
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        time.sleep(self.delay)
        path = self.root / unquote(urlsplit(self.path).path).lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)) if wanted else (0, size - 1)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size:x}"')
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.end_headers()
        self.wfile.flush()
        if body:
            with path.open("rb") as file:
                self._send(file.fileno(), first, last + 1)

    def _send(self, file: int, start: int, end: int) -> None:
        while start < end:
            start += os.sendfile(self.connection.fileno(), file, start, end - start)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line per request would be timed, too."""


def main() -> None:
    """Serve."""
    Handler.root, Handler.delay = Path(sys.argv[1]).absolute(), float(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
