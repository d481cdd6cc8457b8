"""Both ends of the edge under measurement: a backend and clients that send exactly N requests.

Promises: the same bytes each time, as many requests in flight, and a failure for any answer that is
not as expected.
Knows nothing of valgrind or of bounds.
"""

import asyncio
import functools
import re
import socket
import ssl
import subprocess
import threading

# In flight at a time: as many as the comparison with peers has, and enough for the share of waking
# up, which depends on timing, to be small.
CONNECTIONS = 64
BIG_CONNECTIONS = 8
ANSWER_BYTES = 1024
BIG_BYTES = 1 << 20
POST_BYTES = 4096
DEADLINE_SECONDS = 60
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Referer: https://shop.example.com/catalog?page=2\r\n"
    "Cookie: session=5f0c1b7e9a3d4c2e8b6a; theme=dark; consent=yes\r\n"
    "Cache-Control: no-cache\r\n"
    "Upgrade-Insecure-Requests: 1\r\n"
    "Sec-Fetch-Dest: document\r\n"
    "Sec-Fetch-Mode: navigate\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
)


class Failure(Exception):
    """What kept a measurement from being one."""


def answer(body):
    """A whole HTTP/1.1 answer with `body`."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One keep-alive connection; answers each request when its body is in."""

    small = answer(b"x" * ANSWER_BYTES)
    big = answer(b"x" * BIG_BYTES)

    def __init__(self, health_seconds):
        self.pending = b""
        self.health_seconds = health_seconds

    def connection_made(self, transport):
        self.transport = transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.pending, 0, end + 2)
            whole = end + 4 + (int(length.group(1)) if length else 0)
            if len(self.pending) < whole:
                return
            target = self.pending.split(b" ", 2)[1]
            self.pending = self.pending[whole:]
            if target == b"/health":
                loop = asyncio.get_running_loop()
                loop.call_later(self.health_seconds, self.transport.write, self.small)
            else:
                self.transport.write(self.big if target.endswith(b"/big") else self.small)


class Backend:
    """An HTTP/1.1 server in a thread of this process: a loopback port for each of `health_seconds`,
    the time that its answers to health checks take."""

    def __init__(self, health_seconds):
        self.health_seconds = health_seconds
        self.sockets = [socket.create_server(("127.0.0.1", 0), backlog=128)
                        for _ in health_seconds]
        self.ports = [s.getsockname()[1] for s in self.sockets]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(DEADLINE_SECONDS)

    def _run(self):
        for seconds, listening in zip(self.health_seconds, self.sockets):
            kind = functools.partial(_Connection, seconds)
            self.loop.run_until_complete(self.loop.create_server(kind, sock=listening))
        self.loop.run_forever()


def request(method, path, headers="", body=b""):
    """The bytes of one request."""
    if body:
        headers += f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: api.example.com\r\n{headers}\r\n".encode() + body


def connect(port, tls):
    """A connection to the edge; with `tls`, for HTTP/1.1, to whatever certificate it has."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return raw
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context.wrap_socket(raw, server_hostname="localhost")


def read_answer(connection, status):
    """Reads one whole answer, which must have this status and a length."""
    data = bytearray()
    whole = None
    while whole is None or len(data) < whole:
        chunk = connection.recv(1 << 18)
        if not chunk:
            raise Failure(f"the edge closed a connection after {bytes(data[:200])!r}")
        data += chunk
        if whole is None and (end := data.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(data, 0, end + 2)
            if int(data[9:12]) != status or not length:
                raise Failure(f"expected {status} with a length, got {bytes(data[:end])!r}")
            whole = end + 4 + int(length.group(1))


def send_http1(port, message, count, status=200, tls=False, at_a_time=CONNECTIONS):
    """Exactly `count` requests over new connections, each with one in flight."""
    connections = [connect(port, tls) for _ in range(min(at_a_time, count))]
    try:
        for start in range(0, count, len(connections)):
            turn = connections[:count - start]
            for connection in turn:
                connection.sendall(message)
            for connection in turn:
                read_answer(connection, status)
    finally:
        for connection in connections:
            connection.close()


def send_http2(port, path, count, tls=False):
    """Exactly `count` requests by h2load: 8 connections with 8 streams each."""
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}"
    command = ["h2load", "-n", str(count), "-c", "8", "-m", "8", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS * 2)
    # It would fall back to HTTP/1.1 where the edge does not offer HTTP/2.
    spoken = f"Application protocol: {'h2' if tls else 'h2c'}\n"
    if spoken not in done.stdout or f" {count} succeeded, 0 failed" not in done.stdout:
        raise Failure(f"h2load: {done.stdout[-800:]}{done.stderr[-400:]}")
