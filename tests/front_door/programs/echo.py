"""An endpoint of WebSockets, by `websockets`.

echo.py ADDRESS      /ws echoes; /ws/close/CODE closes with it; /ws/ping pings the client and says
                     how it went; /ws/pieces sends one message in many fragments
"""

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, serve

MOST = 64 << 20


async def speak(socket: ServerConnection) -> None:
    path = socket.request.path
    if path.startswith("/ws/close/"):
        await socket.close(int(path.rpartition("/")[2]), "as you wish")
    elif path == "/ws/ping":
        seconds = await (await socket.ping(b"are you there"))
        await socket.send(f"pong {seconds >= 0}")
    elif path == "/ws/pieces":
        await socket.send(str(number) for number in range(1000))
    else:
        async for message in socket:
            await socket.send(message)


async def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    async with serve(speak, host, int(port), max_size=MOST, ping_interval=None):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
