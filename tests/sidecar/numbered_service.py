"""The service of ``test_killed_upstream.py``: each answer holds the number that was asked for, in several pieces."""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECES = 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        piece = self.path.removeprefix("/").encode() * 50
        self.send_response(200)
        self.send_header("Content-Length", str(len(piece) * PIECES))
        self.end_headers()
        for _ in range(PIECES):
            self.wfile.write(piece)
            time.sleep(0.001)  # so that most of its ends are amid answers

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
