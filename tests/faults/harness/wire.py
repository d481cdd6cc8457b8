"""What the proxy sends to the endpoints, seen on the loopback device.

The proxy's own account is not asked: an endpoint is out when nothing but probes goes to it. A
request tells its id on the wire; an attempt to connect to an endpoint that does not answer tells
nothing, so there only more attempts than probes can make count as traffic.
"""

import contextlib
import ctypes
import socket
import struct
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

from harness.reconcile import SECOND

ETH_P_IP = 0x0800
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
ETHERNET_BYTES = 14
SYN, ACK = 0x02, 0x10
BURST, BURST_NS = 4, SECOND // 4  # as many connects in such a time are more than probes make
RECEIVE_BUFFER = 32 << 20


@dataclass(frozen=True)
class Sighting:
    """A connect or the head of a request, on its way to an endpoint for the first time."""

    at: int
    port: int  # of the endpoint
    connection: int  # port of the proxy's end
    what: str  # "connect", "probe" or "request"
    identity: str = ""
    method: str = ""


def port_filter(lowest: int, highest: int) -> bytes:
    """Classic BPF: TCP over IPv4 to these ports, segments with SYN or PSH."""
    reject = 255

    def code(operation: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", operation, yes, no, value)

    program = [
        (0x28, 12),  # ether type
        (0x15, ETH_P_IP, 0, reject),
        (0x30, 23),  # protocol
        (0x15, 6, 0, reject),
        (0xB1, 14),  # X: length of the IP header
        (0x48, 16),  # destination port
        (0x35, lowest, 0, reject),
        (0x25, highest, reject, 0),
        (0x50, 27),  # flags
        (0x45, SYN | 0x08, 0, reject),
        (0x06, 0xFFFF),
        (0x06, 0),
    ]
    last = len(program) - 1
    packed = b""
    for place, (operation, value, *jumps) in enumerate(program):
        targets = [last - place - 1 if jump == reject else jump for jump in jumps]
        packed += code(operation, value, *targets)
    return packed


class Wire:
    """Watches from when it is made until `close`."""

    def __init__(self, ports: list[int]) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        program = port_filter(min(ports), max(ports))
        buffer = ctypes.create_string_buffer(program)
        attached = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attached)
        with contextlib.suppress(PermissionError):  # beyond the machine's bound: only root of all
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.settimeout(0.2)
        self._socket.bind(("lo", ETH_P_IP))
        self._ports = set(ports)
        self._seen: set[tuple] = set()  # a segment that is sent again is not a new one
        self.sightings: list[Sighting] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                frame = self._socket.recv(4096)
            except TimeoutError:
                continue
            self._take(frame, time.monotonic_ns())

    def _take(self, frame: bytes, now: int) -> None:
        ip = ETHERNET_BYTES
        tcp = ip + (frame[ip] & 0x0F) * 4
        source, target, sequence = struct.unpack_from("!HHI", frame, tcp)
        flags, data = frame[tcp + 13], frame[tcp + (frame[tcp + 12] >> 4) * 4 :]
        key = (source, target, sequence, flags & SYN)
        if target not in self._ports or key in self._seen:
            return
        self._seen.add(key)
        if flags & SYN:
            if not flags & ACK:
                self.sightings.append(Sighting(now, target, source, "connect"))
            return
        if found := read_head(data):
            self.sightings.append(Sighting(now, target, source, *found))

    def close(self) -> list[Sighting]:
        self._closed.set()
        self._thread.join()
        self._socket.close()
        return self.sightings


def read_head(data: bytes) -> tuple[str, str, str] | None:
    """What it is, id and method, of the begin of a request; None of anything else."""
    head = data.partition(b"\r\n\r\n")[0]
    line, _, fields = head.partition(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        return None
    if parts[1].endswith(b"/health"):
        return "probe", "", ""
    for each in fields.split(b"\r\n"):
        name, _, value = each.partition(b":")
        if name.lower() == b"x-fault-id":
            return "request", value.strip().decode("latin-1"), parts[0].decode("latin-1")
    return None


def last_traffic(sightings: list[Sighting], ports: set[int], begin: int, end: int) -> int | None:
    """When the last request, or the last of a burst of connects, went to these ports."""
    last: int | None = None
    connects = defaultdict(list)
    for seen in sightings:
        if seen.port not in ports or not begin <= seen.at < end:
            continue
        if seen.what == "request":
            last = max(last or 0, seen.at)
        elif seen.what == "connect":
            connects[seen.port].append(seen.at)
    for times in connects.values():
        times.sort()
        for first, fourth in zip(times, times[BURST - 1 :]):
            if fourth - first <= BURST_NS:
                last = max(last or 0, fourth)
    return last


def sent_twice(sightings: list[Sighting], known: set[str]) -> list[str]:
    """Of these ids, those of requests other than GET that went to endpoints more than once."""
    ways = defaultdict(set)
    for seen in sightings:
        if seen.what == "request" and seen.method != "GET" and seen.identity in known:
            ways[seen.identity].add((seen.port, seen.connection, seen.at))
    return [identity for identity, found in ways.items() if len(found) > 1]
