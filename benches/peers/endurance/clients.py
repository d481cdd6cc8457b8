"""Well-behaved and other clients, as coroutines. Each runs until it is cancelled and notes every
request.
"""

import asyncio
import socket
import struct
import time
from collections import Counter

TIMEOUT = 15.0
HEAD = "{method} {path} HTTP/1.1\r\nHost: soak.example.com\r\n{more}\r\n"


class Notes:
    """What was seen since the last look, and in all."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()  # (kind, cause)
        self._recent: list[float] = []

    def answer(self, kind: str, seconds: float | None = None) -> None:
        self.answered[kind] += 1
        if seconds is not None:
            self._recent.append(seconds * 1e6)

    def fail(self, kind: str, cause: str) -> None:
        self.failed[kind, cause] += 1

    def take_recent(self) -> list[float]:
        taken, self._recent = sorted(self._recent), []
        return taken


class Failed(Exception):
    """A request that was not answered with 200; says why."""


class Connection:
    """One keep-alive connection to the edge."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> None:
        try:
            await asyncio.wait_for(self._ask(method, path, body), TIMEOUT)
        except BaseException as problem:
            self.close()
            if isinstance(problem, TimeoutError):
                raise Failed("no answer in time") from problem
            if isinstance(problem, OSError):
                raise Failed("connection lost") from problem
            raise

    async def _ask(self, method: str, path: str, body: bytes) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        more = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        self._writer.write(HEAD.format(method=method, path=path, more=more).encode() + body)
        await self._writer.drain()
        await self._read_answer()

    async def _read_answer(self) -> None:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        except asyncio.IncompleteReadError as cut:
            raise Failed("cut in the head" if cut.partial else "closed unanswered") from cut
        status = head.split(" ", 2)[1]
        length = next(
            (
                int(line.split(":")[1])
                for line in head.split("\r\n")
                if line.startswith("content-length:")
            ),
            0,
        )
        while length > 0:
            block = await self._reader.read(min(length, 65536))
            if not block:
                raise Failed("cut in the body")
            length -= len(block)
        if "connection: close" in head:
            self.close()
        if status != "200":
            raise Failed(f"status {status}")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def regular(
    port: int,
    notes: Notes,
    kind: str,
    method: str,
    path: str,
    body: bytes,
    every: float,
    phase: float,
) -> None:
    """A client that asks at fixed times, on one connection; the first time after `phase`
    seconds.
    """
    connection = Connection(port)
    await asyncio.sleep(phase)
    next_turn = time.monotonic()
    try:
        while True:
            start = time.monotonic()
            try:
                await connection.ask(method, path, body)
                notes.answer(kind, time.monotonic() - start if kind == "get" else None)
            except Failed as failed:
                notes.fail(kind, str(failed))
            next_turn = max(next_turn + every, time.monotonic() - 1)
            await asyncio.sleep(max(next_turn - time.monotonic(), 0))
    finally:
        connection.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST: what comes after is lost."""
    opened = writer.get_extra_info("socket")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def aborting(port: int, notes: Notes, every: float) -> None:
    """Goes away at four moments: in the head, in its body, before the answer, inside a big
    answer.
    """
    parts = [
        b"GET / HTTP/1.1\r\nHost: so",
        b"POST / HTTP/1.1\r\nHost: soak\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000,
        b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n",
        b"GET /big HTTP/1.1\r\nHost: soak\r\n\r\n",
    ]
    turn = 0
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(parts[turn % 4])
            await writer.drain()
            if turn % 4 == 3:
                await asyncio.wait_for(reader.read(1000), TIMEOUT)
            reset(writer)
            notes.answer("aborted")
        except (OSError, TimeoutError):
            notes.fail("aborted", "could not connect or read")
        turn += 1
        await asyncio.sleep(every)


async def slow(port: int, notes: Notes) -> None:
    """In turn: sends its head byte by byte until the edge is tired of it; reads a big answer at
    200 KiB/s.
    """
    trickle = True
    while True:
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
            if trickle:
                await send_slowly(writer)
            else:
                writer.write(b"GET /big HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
                await read_slowly(reader)
            notes.answer("slow")
        except (OSError, TimeoutError):
            notes.answer("slow, refused")  # what the edge should do to one that trickles
        finally:
            if writer is not None:
                writer.close()
        trickle = not trickle
        await asyncio.sleep(0.5)


async def send_slowly(writer: asyncio.StreamWriter) -> None:
    for byte in b"GET / HTTP/1.1\r\nHost: soak.example.com\r\n":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def read_slowly(reader: asyncio.StreamReader) -> None:
    while await asyncio.wait_for(reader.read(20_000), TIMEOUT):
        await asyncio.sleep(0.1)
