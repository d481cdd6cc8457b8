"""log: what the access log costs. The same load without a log and with each kind that the proxy
has.

Lines are counted, so that a log that drops or delays them shows.
"""

import socket
import time
from pathlib import Path

from lab.load import wrk
from modes.base import Bench, Case, cost
from proxies import Proxy, Running, Setup

FLUSH_SECONDS = 1.5


def cases(mode: str, proxy: Proxy, _bench: Bench) -> list[Case]:
    return [Case(mode, kind or "off", Setup(log=kind), measure) for kind in (None, *proxy.logs)]


def measure(bench: Bench, running: Running) -> dict:
    served = 0

    def burst(seconds: float):
        nonlocal served
        done = wrk(running.site.url("h1"), bench.cpus.load, 64, int(seconds))
        served += done.done
        return done

    with syslog_sink(running):
        figures = cost(running, bench.seconds, burst)
        time.sleep(FLUSH_SECONDS)
    if running.setup.log and running.setup.log != "udp":
        lines, size = measure_file(running.proxy.log_file(running.site))
        running.proxy.log_file(running.site).write_bytes(b"")
        figures |= {
            "lines_per_request": lines / max(served, 1),
            "bytes_per_line": size / max(lines, 1),
        }
    return figures


def syslog_sink(running: Running) -> socket.socket:
    """Somewhere for datagrams to arrive. Nobody reads them: the kernel drops what does not fit."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", running.site.ports["syslog"]))
    return sink


def measure_file(path: Path) -> tuple[int, int]:
    """Lines and bytes."""
    lines = size = 0
    if not path.exists():
        return 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            size += len(block)
    return lines, size
