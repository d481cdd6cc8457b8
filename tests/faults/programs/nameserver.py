"""A name server of one zone: NAME.pool.test is what the table says, with a time to live of 1 s.

nameserver.py ADDRESS JOURNAL TABLE     TABLE is JSON: {"NAME.pool.test": "127.0.0.1"}

SIGUSR1: from now on SERVFAIL to everything. SIGUSR2: answers as before. A line goes into the
journal for every question.
"""

import json
import signal
import socket
import struct
import sys

A, IN, SERVFAIL, NXDOMAIN = 1, 1, 2, 3
HEAD = struct.Struct("!6H")


def question(packet: bytes) -> tuple[str, int, bytes]:
    """Name, type, and the section as it came."""
    labels, place = [], HEAD.size
    while length := packet[place]:
        labels.append(packet[place + 1 : place + 1 + length].decode("ascii").lower())
        place += 1 + length
    kind, _ = struct.unpack_from("!2H", packet, place + 1)
    return ".".join(labels), kind, packet[HEAD.size : place + 5]


def answer(packet: bytes, table: dict[str, str], failing: bool) -> bytes:
    name, kind, section = question(packet)
    found = table.get(name)
    code = SERVFAIL if failing else 0 if found else NXDOMAIN
    records = b""
    if not failing and found and kind == A:
        records = struct.pack("!3HIH", 0xC00C, A, IN, 1, 4) + socket.inet_aton(found)
    identity = packet[:2]
    counts = struct.pack("!5H", 0x8180 | code, 1, 1 if records else 0, 0, 0)
    return identity + counts + section + records


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    table = json.loads(sys.argv[3])
    state = {"failing": False}
    signal.signal(signal.SIGUSR1, lambda *_: state.update(failing=True))
    signal.signal(signal.SIGUSR2, lambda *_: state.update(failing=False))
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((host, int(port)))
    with open(sys.argv[2], "a", buffering=1) as journal:
        while True:
            packet, source = opened.recvfrom(512)
            try:
                reply = answer(packet, table, state["failing"])
                journal.write(f"{question(packet)[0]} {'failed' if state['failing'] else 'ok'}\n")
            except (IndexError, struct.error, UnicodeDecodeError):
                continue
            opened.sendto(reply, source)


if __name__ == "__main__":
    main()
