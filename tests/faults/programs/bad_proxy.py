"""A small proxy that does wrong what it is told to: what the suite must find out.

bad_proxy.py ADDRESS VICES SERVICES     VICES: comma-separated; SERVICES is JSON:
                                        {"/bystander/": [addresses], "/": [addresses]}

doubles     sends some POSTs to two endpoints
loses       closes some connections instead of answering
invents     answers some requests with 200 and asks nobody
completes   an answer that ends early is passed on as if it were whole
stubborn    never leaves a dead endpoint out, but moves on to another one
blocks      stands still now and then
none        does its work: repeats a GET elsewhere, leaves a dead endpoint out
"""

import asyncio
import itertools
import json
import sys
import time

EVERY = 40  # of how many requests one is wronged
OUT_SECONDS = 30.0
BLOCK_SECONDS, BLOCK_EVERY = 0.4, 30


class Failed(Exception):
    """No answer from an endpoint; says whether the request may have been read."""

    def __init__(self, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class Proxy:
    def __init__(self, vices: set[str], services: dict[str, list[str]]) -> None:
        self._vices, self._services = vices, services
        self._turn = itertools.count()
        self._number = itertools.count(1)
        self._out: dict[str, float] = {}  # until when

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await read_request(reader):
                answer = await self._answered(*request)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answered(self, method: str, path: str, raw: bytes) -> bytes | None:
        number = next(self._number)
        if "blocks" in self._vices and number % BLOCK_EVERY == 0:
            time.sleep(BLOCK_SECONDS)
        if "loses" in self._vices and number % EVERY == 0:
            return None
        if "invents" in self._vices and number % EVERY == 1:
            return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        addresses = next(found for start, found in self._services.items() if path.startswith(start))
        answer = await self._forwarded(method, raw, addresses)
        if "doubles" in self._vices and method == "POST" and number % EVERY < 4:
            answer = await self._forwarded(method, raw, addresses)
        return answer

    async def _forwarded(self, method: str, raw: bytes, addresses: list[str]) -> bytes | None:
        start = next(self._turn)
        for step in range(len(addresses)):
            address = addresses[(start + step) % len(addresses)]
            if self._out.get(address, 0) > time.monotonic():
                continue
            try:
                return await self._exchange(address, raw)
            except Failed as failed:
                if "stubborn" not in self._vices:
                    self._out[address] = time.monotonic() + OUT_SECONDS
                if failed.sent and method != "GET":
                    break
        return b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"

    async def _exchange(self, address: str, raw: bytes) -> bytes | None:
        """None if the answer was cut, which the client must see."""
        host, _, port = address.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError as problem:
            raise Failed(sent=False) from problem
        try:
            writer.write(raw)
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError) as problem:
            writer.close()
            raise Failed(sent=True) from problem
        length, body = length_of(head), b""
        try:
            while length is None or len(body) < length:
                more = await reader.read(65536)
                if not more:
                    break
                body += more
        except OSError:
            pass
        writer.close()
        if length is not None and len(body) >= length:
            return head + body
        if "completes" in self._vices:
            return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        return None


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    body = await reader.readexactly(length_of(head) or 0)
    return method, path, head + body


def length_of(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return None


async def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    proxy = Proxy(set(sys.argv[2].split(",")), json.loads(sys.argv[3]))
    server = await asyncio.start_server(proxy.serve, host, int(port), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
