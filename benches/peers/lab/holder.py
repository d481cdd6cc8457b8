"""Holds idle keep-alive connections from one client address; run as a program by `crowd.py`.

holder.py TARGET SOURCE COUNT   opens COUNT connections, one request on each: {"held": n}
stdin: ask K                    K requests on connections spread over all of them:
                                {"us": [...], "failed": n}
stdin: count                    {"open": n}
end of stdin                    closes all
"""

import json
import select
import socket
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
BATCH = 64
IP_BIND_ADDRESS_NO_PORT = 24  # the port is chosen when connecting: the whole range for each target


def connected(target: tuple[str, int], source: str) -> socket.socket:
    opened = socket.socket()
    opened.settimeout(10)
    try:
        opened.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        opened.bind((source, 0))
        opened.connect(target)
    except OSError:
        opened.close()
        raise
    return opened


def read_answer(connection: socket.socket) -> bool:
    """Whether a whole 200 came."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < 65536:
        if not (more := connection.recv(8192)):
            return False
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = (int(lengths[0].split(b":")[1]) if lengths else 0) - len(body)
    while missing > 0:
        if not (more := connection.recv(min(missing, 65536))):
            return False
        missing -= len(more)
    return True


def open_batch(target: tuple[str, int], source: str, count: int) -> list[socket.socket]:
    opened = []
    for _ in range(count):
        try:
            opened.append(connected(target, source))
        except OSError:
            break
    answered = []
    for connection in opened:
        try:
            connection.sendall(REQUEST)
        except OSError:
            pass
    refused = False
    for connection in opened:
        if refused:  # the proxy is full: do not wait as long for each of the rest
            connection.settimeout(0.2)
        try:
            kept = read_answer(connection)
        except OSError:
            kept = False
        refused = refused or not kept
        answered.append(connection) if kept else connection.close()
    return answered


def open_all(target: tuple[str, int], source: str, count: int) -> list[socket.socket]:
    """Goes on until the count is reached or one is refused."""
    held: list[socket.socket] = []
    while len(held) < count:
        wanted = min(BATCH, count - len(held))
        batch = open_batch(target, source, wanted)
        held += batch
        if len(batch) < wanted:
            break
    return held


def ask(held: list[socket.socket], count: int) -> dict:
    took, failed = [], 0
    for number in range(count if held else 0):
        connection = held[number * len(held) // count % len(held)]
        start = time.perf_counter()
        try:
            connection.sendall(REQUEST)
            good = read_answer(connection)
        except OSError:
            good = False
        if good:
            took.append(round((time.perf_counter() - start) * 1e6, 1))
        else:
            failed += 1
    return {"us": took, "failed": failed}


def still_open(held: list[socket.socket]) -> int:
    """Nothing is under way, so a connection that has something to read has been closed."""
    poll = select.epoll()
    for connection in held:
        poll.register(connection.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
    closed = len(poll.poll(0, max(len(held), 1)))
    poll.close()
    return len(held) - closed


def say(what: dict) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    held = open_all((host, int(port)), sys.argv[2], int(sys.argv[3]))
    say({"held": len(held)})
    for line in sys.stdin:
        word, *rest = line.split()
        say(ask(held, int(rest[0])) if word == "ask" else {"open": still_open(held)})


if __name__ == "__main__":
    main()
