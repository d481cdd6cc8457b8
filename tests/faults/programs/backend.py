"""An endpoint: one process that can be killed and stopped for real.

backend.py NAME ADDRESS JOURNAL

A request counts as applied once its body is read whole: then its id goes into the journal, in one
write and before anything of the answer, so that a kill -9 loses no line. The answer follows after
a while; a kill in between leaves a request that was applied and not answered.

The last part of the path says what is answered: `health`, `work`, `big` (1 MiB), or one of the
bodies that end too early: `cut-reset`, `cut-fin`, `cut-chunks` (no last chunk), `cut-chunk` (in
the middle of one).
"""

import asyncio
import os
import socket
import struct
import sys
import time

WORK_SECONDS = {"GET": 0.003, "POST": 0.03}
BIG = b"x" * (1 << 20)
PART = b"p" * 3000  # of a body that is never sent whole
CUT_AFTER_SECONDS = 0.02  # so that the head and the part have left
CLOSE_WITH_RESET = struct.pack("ii", 1, 0)


class Backend:
    def __init__(self, name: str, journal: str) -> None:
        self.name = name
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def apply(self, identity: str, method: str) -> None:
        os.write(self._journal, f"{time.monotonic_ns()} {identity} {method}\n".encode())


class Session(asyncio.Protocol):
    """One connection: requests one after the other, as proxies send them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._buffer = bytearray()
        self._missing: int | None = None  # of the body; None: the head is not there yet
        self._busy = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        if self._busy:
            return
        if self._missing is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._read_head(bytes(self._buffer[:end]).decode("latin-1"))
            del self._buffer[: end + 4]
        taken = min(self._missing, len(self._buffer))
        del self._buffer[:taken]
        self._missing -= taken
        if self._missing == 0:
            self._missing, self._busy = None, True
            self._answer()

    def _read_head(self, head: str) -> None:
        line, *fields = head.split("\r\n")
        self._method, self._path, _ = line.split(" ", 2)
        values = dict(field.lower().split(":", 1) for field in fields)
        self._identity = values.get("x-fault-id", "-").strip()
        self._missing = int(values.get("content-length", "0"))

    def _answer(self) -> None:
        what = self._path.rpartition("/")[2]
        if what == "health":
            self._send(b"ok\n")
            return
        self._backend.apply(self._identity, self._method)
        if what.startswith("cut-"):
            self._send_part(what)
            return
        body = BIG if what == "big" else f"{self._backend.name}\n".encode()
        wait = WORK_SECONDS.get(self._method, 0)
        asyncio.get_running_loop().call_later(wait, self._send, body)

    def _send(self, body: bytes) -> None:
        if self._transport.is_closing():
            return
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
            f"X-Backend: {self._backend.name}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        self._busy = False
        if self._buffer:
            self._advance()

    def _send_part(self, what: str) -> None:
        head = f"HTTP/1.1 200 OK\r\nX-Backend: {self._backend.name}\r\n"
        if what in ("cut-reset", "cut-fin"):
            rest = f"Content-Length: {2 * len(PART)}\r\n\r\n".encode() + PART
        else:
            size = len(PART) if what == "cut-chunks" else 2 * len(PART)
            end = b"\r\n" if what == "cut-chunks" else b""
            rest = f"Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n".encode() + PART + end
        self._transport.write(head.encode() + rest)
        close = self._reset if what == "cut-reset" else self._transport.close
        asyncio.get_running_loop().call_later(CUT_AFTER_SECONDS, close)

    def _reset(self) -> None:
        opened = self._transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_WITH_RESET)
        self._transport.abort()


async def main() -> None:
    name, address, journal = sys.argv[1:]
    host, _, port = address.rpartition(":")
    backend = Backend(name, journal)
    server = await asyncio.get_running_loop().create_server(
        lambda: Session(backend), host, int(port), backlog=4096, reuse_address=True
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
