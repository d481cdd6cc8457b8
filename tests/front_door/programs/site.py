"""The endpoint of a small site: a page that tries what browsers do, and what it asks for.

site.py ADDRESS [REPORT]      REPORT: the file that gets what the page says of itself
"""

import http.server
import json
import sys
import time
from pathlib import Path

PAGE = b"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>front door</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/style.css">
<script type="module" src="/page.js"></script></head><body><p id="said">waiting</p></body></html>
"""
SCRIPT = Path(__file__).with_name("page.js")
SQUARE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
    b'<rect width="9" height="9"/></svg>'
)
LARGE = 4 << 20  # /large, bytes
RANGED = 1 << 20  # /ranged, bytes
EVENTS = 5  # in a stream, until it ends; the browser comes again
EVENT_SECONDS = 0.1


class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    report: Path | None = None

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/events":
            self._events()
        elif path == "/page":
            self._answer("text/html", PAGE)
        elif path == "/page.js":
            self._answer("text/javascript", SCRIPT.read_bytes())
        elif path == "/style.css":
            self._answer("text/css", b"#said { color: rgb(1, 2, 3) }")
        elif path.startswith("/square/"):
            self._answer("image/svg+xml", SQUARE)
        elif path == "/large":
            self._answer("application/octet-stream", b"m" * LARGE)
        elif path == "/ranged":
            self._answer("application/octet-stream", b"r" * RANGED)
        else:
            self._answer("text/plain", b"fine\n")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/report" and self.report:
            self.report.write_bytes(body)
        told = {
            "type": self.headers.get("content-type", ""),
            "length": len(body),
            "text": body[:2000].decode(errors="replace"),
        }
        self._answer("application/json", json.dumps(told).encode())

    do_PUT = do_POST

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _events(self) -> None:
        """Counts on from where the browser was; the stream ends after some, without an error."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        first = int(self.headers.get("last-event-id") or 0) + 1
        self._chunk("retry: 100\n\n")
        for number in range(first, first + EVENTS):
            self._chunk(f"id: {number}\ndata: event {number}\n\n")
            time.sleep(EVENT_SECONDS)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())

    def log_message(self, *_) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Clients that go away are what the suite is about."""


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    if len(sys.argv) > 2:
        Site.report = Path(sys.argv[2])
    Server((host, int(port)), Site).serve_forever()
