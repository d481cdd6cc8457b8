"""WebSockets in the clear and over TLS, with `websockets` on both sides."""

import asyncio
import hashlib
import os
import ssl

import websockets
from front.certificates import HOST
from front.edge import Settings
from harness import judge
from harness.judge import Check
from websockets.asyncio.client import ClientConnection, connect

from cases.base import Case, Place

LARGE = 16 << 20
SIZES = (0, 1, 125, 126, 65_535, 65_536, 1 << 20)
CODES = (1000, 1001, 1008, 1011, 3000, 4999)
SECONDS = 30


class Sockets(Case):
    name = "websockets"
    title = "websockets (Python): ws and wss"

    def version(self) -> str:
        return websockets.__version__

    def run(self, place: Place) -> list[Check]:
        sockets = place.program("echo.py", place.address())
        site = place.program("site.py", place.address())
        trust = ssl.create_default_context(cafile=place.authority.root)
        with place.front(Settings(site, sockets)) as front:
            for scheme, address, more in (
                ("ws", front.clear, {}),
                ("wss", front.tls, {"ssl": trust, "server_hostname": HOST}),
            ):
                self.figures[scheme] = asyncio.run(spoken(f"{scheme}://{address}", more))
        wrong = [
            f"{scheme} {name}: {saw}"
            for scheme, parts in self.figures.items()
            for name, saw in parts.items()
            if saw != "well"
        ]
        done = sum(len(parts) for parts in self.figures.values())
        return [
            judge.none("; ".join(["not as it should be", *wrong]), len(wrong)),
            judge.at_least("parts", done, 2 * len(PARTS)),
        ]


async def spoken(base: str, more: dict) -> dict[str, str]:
    """What came of each part: "well", or what was wrong."""
    found = {}
    for name, part in PARTS.items():
        try:
            async with asyncio.timeout(SECONDS):
                await part(
                    lambda path="": connect(
                        f"{base}/ws{path}", max_size=4 * LARGE, ping_interval=None, **more
                    )
                )
            found[name] = "well"
        except (AssertionError, OSError, TimeoutError, websockets.WebSocketException) as problem:
            found[name] = f"{type(problem).__name__}: {problem}"
    return found


async def sizes(open_one) -> None:
    async with open_one() as socket:
        for size in SIZES:
            sent = os.urandom(size)
            await socket.send(sent)
            assert await socket.recv() == sent, size
            text = "ž" * (size // 2)
            await socket.send(text)
            assert await socket.recv() == text, size


async def large(open_one) -> None:
    sent = os.urandom(LARGE)
    async with open_one() as socket:
        await socket.send(sent)
        got = await socket.recv()
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()


async def fragments(open_one) -> None:
    """Of the client, with pings between them, and of the endpoint."""
    async with open_one() as socket:

        async def pieces():
            for number in range(200):
                yield f"{number} "
                if number % 50 == 0:
                    await (await socket.ping())

        await socket.send(pieces())
        assert await socket.recv() == "".join(f"{number} " for number in range(200))
    async with open_one("/pieces") as socket:
        seen = [piece async for piece in socket.recv_streaming()]
        assert len(seen) > 900 and "".join(seen) == "".join(map(str, range(1000))), len(seen)


async def pings(open_one) -> None:
    async with open_one() as socket:
        for size in (0, 4, 125):
            assert await (await socket.ping(b"p" * size)) >= 0
    async with open_one("/ping") as socket:
        assert await socket.recv() == "pong True"


async def codes(open_one) -> None:
    """Of the endpoint and of the client."""
    for code in CODES:
        async with open_one(f"/close/{code}") as socket:
            await gone(socket)
            seen = (socket.close_code, socket.close_reason)
            assert seen == (code, "as you wish"), seen
        async with open_one() as socket:
            await socket.close(code, "enough")
            assert socket.close_code == code, socket.close_code


async def gone(socket: ClientConnection) -> None:
    try:
        await socket.recv()
    except websockets.ConnectionClosed:
        return
    raise AssertionError("still open")


async def compressed(open_one) -> None:
    """permessage-deflate is between the two ends."""
    async with open_one() as socket:
        names = [extension.name for extension in socket.protocol.extensions]
        assert names == ["permessage-deflate"], names
        await socket.send("a" * 100_000)
        assert await socket.recv() == "a" * 100_000


async def many(open_one) -> None:
    async def one(number: int) -> None:
        async with open_one() as socket:
            for turn in range(20):
                await socket.send(f"{number} {turn}")
                assert await socket.recv() == f"{number} {turn}"

    await asyncio.gather(*(one(number) for number in range(50)))


PARTS = {
    "sizes": sizes,
    "large": large,
    "fragments": fragments,
    "pings": pings,
    "close codes": codes,
    "compressed": compressed,
    "fifty at once": many,
}
