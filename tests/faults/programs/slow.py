"""Clients that take their time, as many as are asked for, until stdin ends.

slow.py TARGET HEADS BODIES READERS

HEADS send a byte of a head every second, BODIES 100 bytes of a body, READERS take 2 KiB of a big
answer. Whoever is turned away comes again a second later. Says once how many are connected:
{"connected": n}.
"""

import asyncio
import itertools
import json
import resource
import socket
import sys

from load import until_stdin_ends

PACE_SECONDS = 1.0
ARRIVAL_SECONDS = 3.0  # within which all of them come
LONG_HEAD = b"GET /work HTTP/1.1\r\nHost: faults.test\r\nX-Slow: " + b"s" * 4000
LONG_BODY = (
    b"POST /work HTTP/1.1\r\nHost: faults.test\r\nX-Fault-Id: slow\r\n"
    b"Content-Length: 1000000\r\n\r\n"
)
BIG = b"GET /big HTTP/1.1\r\nHost: faults.test\r\nX-Fault-Id: slow\r\n\r\n"
RECEIVE_BUFFER = 4096
SETTLED_SECONDS = 2.0
IP_BIND_ADDRESS_NO_PORT = 24


class Slow:
    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._sources = itertools.cycle(f"127.0.0.{last}" for last in range(2, 250))
        self.connected = 0

    async def client(self, kind: str, phase: float) -> None:
        await asyncio.sleep(phase)
        while True:
            try:
                await self._one(kind)
            except OSError:
                pass
            await asyncio.sleep(PACE_SECONDS)

    async def _one(self, kind: str) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as opened:
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            opened.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            opened.bind((next(self._sources), 0))
            await loop.sock_connect(opened, self._target)
            self.connected += 1
            try:
                await getattr(self, kind)(loop, opened)
            finally:
                self.connected -= 1

    @staticmethod
    async def heads(loop: asyncio.AbstractEventLoop, opened: socket.socket) -> None:
        for byte in LONG_HEAD:
            await loop.sock_sendall(opened, bytes([byte]))
            await asyncio.sleep(PACE_SECONDS)

    @staticmethod
    async def bodies(loop: asyncio.AbstractEventLoop, opened: socket.socket) -> None:
        await loop.sock_sendall(opened, LONG_BODY)
        for _ in range(10_000):
            await loop.sock_sendall(opened, b"s" * 100)
            await asyncio.sleep(PACE_SECONDS)

    @staticmethod
    async def readers(loop: asyncio.AbstractEventLoop, opened: socket.socket) -> None:
        await loop.sock_sendall(opened, BIG)
        while await loop.sock_recv(opened, 2048):
            await asyncio.sleep(PACE_SECONDS)


async def main() -> None:
    slow = Slow(sys.argv[1])
    counts = dict(zip(("heads", "bodies", "readers"), map(int, sys.argv[2:])))
    clients = [
        asyncio.create_task(slow.client(kind, ARRIVAL_SECONDS * place / count))
        for kind, count in counts.items()
        for place in range(count)
    ]
    await asyncio.sleep(ARRIVAL_SECONDS + SETTLED_SECONDS)
    print(json.dumps({"connected": slow.connected}), flush=True)
    await until_stdin_ends()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main())
