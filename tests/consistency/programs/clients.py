#!/usr/bin/env python3
"""Sessions that write and read notes through the edges, and write down what they saw.

clients.py ORDER    ORDER is JSON: edges (address by name), journal, name, seed, sessions, keys,
                    write_share, think_ms, timeout, operations, and ways: "cookie", "header" (what
                    carries the token), "pinned" (no token; the primary for 2 s after a write)
end of stdin        no new requests; those under way are waited for, then the journal is complete

The journal has a line for every request, a list: what judging/history.py has as an Op. A client
repeats nothing. It goes on at another edge now and then, and after a failure.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from pathlib import Path

PINNED_NS = 2_000_000_000
SWITCH_SHARE = 0.05
BOUNDS_MS = (None, None, None, 500, 2_000, 10_000)


class NotAnswered(Exception):
    """Says how the answer ended instead."""


class Connection:
    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, fields by name in small letters, body; only if it came whole."""
        if self._writer is None or self._reader.at_eof():
            self.close()
            try:
                self._reader, self._writer = await asyncio.open_connection(*self._target)
            except OSError as problem:
                raise NotAnswered("not connected") from problem
        try:
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").split("\r\n")
            found = {}
            for field in fields:
                name, _, value = field.partition(":")
                found[name.lower()] = value.strip()
            body = await self._reader.readexactly(int(found.get("content-length", "0")))
        except (OSError, asyncio.IncompleteReadError) as cut:
            raise NotAnswered("connection lost") from cut
        if found.get("connection", "").lower() == "close":
            self.close()
        return int(line.split(" ", 2)[1]), found, body

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Session:
    def __init__(self, order: dict, number: int) -> None:
        self.name = f"{order['name']}-{number}"
        self._order = order
        self._way = order["ways"][number % len(order["ways"])]
        self._dice = random.Random(f"{order['seed']} {self.name}")
        self._connections = {name: Connection(at) for name, at in order["edges"].items()}
        self._edge = sorted(self._connections)[number % len(self._connections)]
        self._token = ""
        self._wrote_at = -PINNED_NS
        self._number = 0

    async def once(self) -> list:
        """One request, and the line of the journal that tells of it."""
        self._number += 1
        identity = f"{self.name}-{self._number}"
        if self._dice.random() < SWITCH_SHARE:
            self._edge = self._dice.choice(sorted(self._connections))
        edge, key = self._edge, f"k{self._dice.randrange(self._order['keys'])}"
        kind = "write" if self._dice.random() < self._order["write_share"] else "read"
        bound = self._dice.choice(BOUNDS_MS) if kind == "read" else None
        request = self._request(identity, kind, key, bound)
        began, status, body, cause = time.monotonic_ns(), 0, {}, ""
        pinned = b"GET /primary/" == request[:13]
        try:
            async with asyncio.timeout(self._order["timeout"]):
                status, fields, content = await self._connections[edge].ask(request)
            self._remember(fields)
            if status in (200, 201, 404):
                body = json.loads(content)
            else:
                cause = content.decode(errors="replace").partition("\n")[0][:200]
        except NotAnswered as problem:
            cause = str(problem)
        except TimeoutError:
            cause = "no answer in time"
        ended = time.monotonic_ns()
        if status not in (200, 201, 404):
            self._connections[edge].close()
            self._edge = self._dice.choice(sorted(self._connections))
        if status == 201:
            self._wrote_at = ended
        region, version = body.get("region", ""), body.get("version", 0)
        line = [identity, self.name, kind, key, edge, began, ended, status, version, region, bound]
        return [*line, cause, pinned]

    def _request(self, identity: str, kind: str, key: str, bound: int | None) -> bytes:
        prefix = ""
        if self._way == "pinned" and time.monotonic_ns() - self._wrote_at < PINNED_NS:
            prefix = "/primary"
        fields = f"Host: notes.test\r\nX-Op: {identity}\r\n"
        if self._way == "cookie" and self._token:
            fields += f"Cookie: theme=dark; __meridian={self._token}\r\n"
        if self._way == "header" and self._token:
            fields += f"Meridian-Session: {self._token}\r\n"
        if kind == "read":
            if bound is not None:
                fields += f"Meridian-Max-Staleness: {bound}ms\r\n"
            return f"GET {prefix}/notes/{key} HTTP/1.1\r\n{fields}\r\n".encode()
        body = json.dumps({"id": identity, "value": identity})
        fields += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"POST /notes/{key} HTTP/1.1\r\n{fields}\r\n{body}".encode()

    def _remember(self, fields: dict[str, str]) -> None:
        if self._way == "header" and "meridian-session" in fields:
            self._token = fields["meridian-session"]
        cookie = fields.get("set-cookie", "")
        if self._way == "cookie" and cookie.startswith("__meridian="):
            self._token = cookie.removeprefix("__meridian=").partition(";")[0]

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


class Crowd:
    def __init__(self, order: dict) -> None:
        self._order = order
        self._left = order["operations"]
        self._stop = asyncio.Event()
        self._file = Path(order["journal"]).open("w", buffering=1 << 16)

    async def run(self) -> None:
        sessions = [Session(self._order, number) for number in range(self._order["sessions"])]
        tasks = [asyncio.create_task(self._go_on(session)) for session in sessions]
        end = asyncio.create_task(self._until_stdin_ends())
        await asyncio.gather(*tasks)
        self._file.close()
        end.cancel()

    async def _go_on(self, session: Session) -> None:
        dice = random.Random(session.name)
        while self._left > 0 and not self._stop.is_set():
            self._left -= 1
            self._file.write(json.dumps(await session.once()) + "\n")
            wait = self._order["think_ms"] / 1000 * 2 * dice.random()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stop.wait()
        session.close()

    async def _until_stdin_ends(self) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        await reader.read()
        self._stop.set()


if __name__ == "__main__":
    asyncio.run(Crowd(json.loads(sys.argv[1])).run())
