"""A front that can be smuggled through: it frames requests by Content-Length and forwards what it
read as it came, over one connection, to an endpoint that frames them by Transfer-Encoding.

naive.py ADDRESS              the front, with its endpoint behind it: whoever scans it must find it
naive.py ADDRESS endpoint     the endpoint alone, for another front
"""

import asyncio
import sys

CLIENT_SECONDS = 0.5  # that a body may keep the front waiting
ENDPOINT_SECONDS = 4.0
METHODS = ("GET", "POST")


def answer(status: str, text: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


async def head_of(reader: asyncio.StreamReader) -> tuple[bytes, str, dict[str, str]] | None:
    """As it came, the method, and its fields in lower case; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        return None
    line, *lines = head.decode("latin-1").split("\r\n")
    fields: dict[str, str] = {}
    for each in lines:
        name, _, value = each.partition(":")
        fields.setdefault(name.strip().lower(), value.strip().lower())
    return head, line.split(" ")[0], fields


def length_of(fields: dict[str, str]) -> int:
    value = fields.get("content-length", "0")
    return int(value) if value.isdigit() else 0


async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Believes in chunks first."""
    try:
        while found := await head_of(reader):
            _, method, fields = found
            if "chunked" in fields.get("transfer-encoding", ""):
                size = -1
                while size:
                    size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                    await reader.readexactly(size + 2)
            else:
                await reader.readexactly(length_of(fields))
            known = method in METHODS
            writer.write(answer("200 OK", "fine") if known else answer("405 No", "unknown method"))
    except (ValueError, asyncio.IncompleteReadError, OSError):
        pass
    writer.close()


class Front:
    def __init__(self, port: int) -> None:
        self._port = port
        self._turn = asyncio.Lock()
        self._way: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Believes in Content-Length alone."""
        try:
            while found := await head_of(reader):
                head, method, fields = found
                if method not in METHODS:
                    writer.write(answer("403 No", "not this method"))
                    continue
                async with asyncio.timeout(CLIENT_SECONDS):
                    body = await reader.readexactly(length_of(fields))
                writer.write(await self._forward(head + body))
        except TimeoutError:
            writer.write(answer("400 No", "where is the body"))
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()

    async def _forward(self, request: bytes) -> bytes:
        async with self._turn:
            try:
                if self._way is None:
                    self._way = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._way
                writer.write(request)
                async with asyncio.timeout(ENDPOINT_SECONDS):
                    found = await head_of(reader)
                    if found is None:
                        raise OSError("the endpoint has gone")
                    head, _, fields = found
                    return head + await reader.readexactly(length_of(fields))
            except TimeoutError:
                self._leave()
                return answer("504 Late", "late")
            except (asyncio.IncompleteReadError, OSError):
                self._leave()
                return answer("502 Gone", "gone")

    def _leave(self) -> None:
        if self._way:
            self._way[1].close()
        self._way = None


async def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    if sys.argv[2:] == ["endpoint"]:
        server = await asyncio.start_server(endpoint, host, int(port))
    else:
        behind = await asyncio.start_server(endpoint, "127.0.0.1", 0)
        front = Front(behind.sockets[0].getsockname()[1])
        server = await asyncio.start_server(front.client, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
