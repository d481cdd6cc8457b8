"""Clients at a fixed rate, each on a keep-alive connection of its own.

load.py ORDER       ORDER is JSON: {"target", "journal", "name", "timeout", "flows": [...]}
end of stdin        no new requests; those under way are waited for, then the journal is complete

Every request has an id that is never used again. A client whose answer is late sends the next
request late, and the latency counts from when it was due: nothing is left out because the proxy
was slow. A connection that the proxy has closed in the meantime is replaced before a request, not
after it: no client repeats anything.
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

MOST_BEHIND_NS = 1_000_000_000  # a client does not make up for more than that


class NotAnswered(Exception):
    """Says how the answer ended instead."""


class Connection:
    """To the proxy; opened when needed."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> dict[str, str]:
        """The answer's fields, its status under "status"; only if it came whole."""
        if self._writer is None or self._reader.at_eof():
            self.close()
            try:
                self._reader, self._writer = await asyncio.open_connection(*self._target)
            except OSError as problem:
                raise NotAnswered("not connected") from problem
        try:
            self._writer.write(request)
            return await self._read_answer()
        except OSError as problem:
            raise NotAnswered("connection lost") from problem

    async def _read_answer(self) -> dict[str, str]:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as cut:
            raise NotAnswered("cut in the head" if cut.partial else "closed unanswered") from cut
        line, *fields = head.decode("latin-1").split("\r\n")
        answer = {}
        for field in fields:
            name, _, value = field.partition(":")
            answer[name.lower()] = value.strip()
        answer["status"] = line.split(" ", 2)[1]
        try:
            await self._read_body(answer)
        except (asyncio.IncompleteReadError, OSError) as cut:
            raise NotAnswered("cut in the body") from cut
        if answer.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def _read_body(self, answer: dict[str, str]) -> None:
        if answer.get("transfer-encoding") != "chunked":
            await self._reader.readexactly(int(answer.get("content-length", "0")))
            return
        size = -1
        while size:
            size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
            await self._reader.readexactly(size + 2)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Load:
    def __init__(self, order: dict) -> None:
        self._order = order
        self._stop = asyncio.Event()
        self._records: list[list] = []
        self._number = 0

    async def run(self) -> None:
        clients = [
            asyncio.create_task(self._client(flow, place))
            for flow in self._order["flows"]
            for place in range(flow["clients"])
        ]
        await until_stdin_ends()
        self._stop.set()
        await asyncio.gather(*clients)
        lines = (json.dumps(record) + "\n" for record in self._records)
        Path(self._order["journal"]).write_text("".join(lines))

    async def _client(self, flow: dict, place: int) -> None:
        host, _, port = self._order["target"].rpartition(":")
        connection = Connection(host, int(port))
        every = int(flow["clients"] / flow["rate"] * 1e9)
        due = time.monotonic_ns() + every * place // flow["clients"]
        while not await self._stopped_before(due):
            await self._one(connection, flow, due)
            due = max(due + every, time.monotonic_ns() - MOST_BEHIND_NS)
        connection.close()

    async def _stopped_before(self, due: int) -> bool:
        wait = (due - time.monotonic_ns()) / 1e9
        if wait > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stop.wait()
        return self._stop.is_set()

    async def _one(self, connection: Connection, flow: dict, due: int) -> None:
        self._number += 1
        identity = f"{self._order['name']}-{self._number}"
        body = b"b" * flow["body"]
        length = f"Content-Length: {len(body)}\r\n" if flow["method"] == "POST" else ""
        request = (
            f"{flow['method']} {flow['path']} HTTP/1.1\r\nHost: faults.test\r\n"
            f"X-Fault-Id: {identity}\r\n{length}\r\n"
        )
        began, answer, cause = time.monotonic_ns(), {}, ""
        try:
            async with asyncio.timeout(self._order["timeout"]):
                answer = await connection.ask(request.encode() + body)
        except NotAnswered as problem:
            cause = str(problem)
        except TimeoutError:
            cause = "no answer in time"
        if cause:
            connection.close()
        self._records.append(
            [
                identity,
                flow["kind"],
                flow["method"],
                due,
                began,
                time.monotonic_ns(),
                int(answer.get("status", 0)),
                cause,
                answer.get("x-backend", ""),
                "retry-after" in answer,
            ]
        )
        if cause == "not connected":
            await self._stopped_before(time.monotonic_ns() + 20_000_000)


async def until_stdin_ends() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    asyncio.run(Load(json.loads(sys.argv[1])).run())
