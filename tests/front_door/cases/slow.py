"""slowhttptest in its four modes: nobody else is disturbed, memory is bounded, and who is slow is
ended at a deadline.
"""

import csv
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from front.edge import Front, Settings
from harness import admin, judge
from harness.judge import Check
from harness.reconcile import Asked, latencies
from harness.traffic import Flow, Load
from lab.load import percentile
from lab.machine import first_line

from cases.base import Case, Place, tool

# The defaults, scaled down so that all four modes fit into a minute.
LIMITS = ('header_timeout = "3s"', 'keepalive_timeout = "5s"')
TIMEOUTS = ('idle = "3s"', 'request = "6s"')
# An alarm is looked at twice a second, and the machine is busy.
SLACK_SECONDS = 5.0
LONGEST_SECONDS = 15
PROBES = 3  # connections of the program's own, which asks whether it is still served
# What a debug binary on a shared machine of two processors may keep anybody waiting at any time.
FLOOR_MS = 400.0
# Of the program's own samples, one a second, in which it must have been served.
AVAILABLE = 0.9
# A connection's buffers, twice over; and what the allocator keeps.
MOST_KIB_EACH, MOST_KIB = 64, 16 * 1024
BESIDE = Flow("bystander", "GET", "/", 10, 50)
QUIET_SECONDS = 1.5
BIG = 1 << 20
# /read answers when it has the whole body.
NGINX = """
pid {folder}/nginx.pid; error_log {folder}/nginx.log error; daemon off; worker_processes 1;
events {{ worker_connections 8192; }}
http {{ access_log off; client_body_temp_path {folder}/bodies; proxy_temp_path {folder}/answers;
 fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
 server {{ listen {address} backlog=4096;
  location / {{ default_type text/plain; return 200 "fine"; }}
  location /read {{ proxy_pass http://{address}/; }}
  location /big {{ root {folder}; }} }} }}
"""


@dataclass(frozen=True)
class Mode:
    name: str
    arguments: tuple[str, ...]
    path: str
    deadline: float  # seconds, from a connection's first byte on
    stays: bool = True  # until that; what is answered at once goes at once
    connections: int = 300
    a_second: int = 75

    @property
    def ramp(self) -> float:
        """Seconds in which they come."""
        return self.connections / self.a_second


MODES = (
    Mode("slow heads (-H)", ("-H", "-i", "1", "-x", "24"), "/", 3),
    Mode("slow bodies (-B)", ("-B", "-i", "1", "-s", "8192", "-x", "10"), "/read", 6),
    Mode("ranges (-R)", ("-R", "-a", "5", "-b", "1000", "-i", "1"), "/big", 6, stays=False),
    Mode(
        "slow readers (-X)",
        ("-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "1"),
        "/big",
        6,
        # Of each the kernel takes half a megabyte at once.
        connections=150,
        a_second=30,
    ),
)


class Slow(Case):
    name = "slowhttptest"
    title = "slowhttptest: slow heads, bodies, readers, and ranges"
    programs = ("slowhttptest", "nginx")

    def version(self) -> str:
        return first_line([tool("slowhttptest"), "-h"], r"version (\S+)")

    def run(self, place: Place) -> list[Check]:
        endpoint = nginx(place)
        checks = []
        self.figures["modes"] = []
        with place.front(Settings(endpoint, limits=LIMITS, timeouts=TIMEOUTS)) as front:
            for number, mode in enumerate(MODES):
                seen = suffered(place, front, endpoint, mode, number)
                self.figures["modes"].append(seen)
                checks += self._bounds(mode, seen)
        return checks

    @staticmethod
    def _bounds(mode: Mode, seen: dict) -> list[Check]:
        p99 = judge.p99_bound(seen["quiet_p99_ms"], seen["direct_p99_ms"], FLOOR_MS)
        bound = mode.ramp + mode.deadline + SLACK_SECONDS
        most = MOST_KIB + MOST_KIB_EACH * mode.connections
        # That there was an attack: by how many stayed, or by what was asked where nobody does.
        came = ("connections at once", seen["peak"], mode.connections / 4)
        if not mode.stays:
            came = ("its requests that were logged", seen["logged"], mode.connections / 2)
        what, count, least = came
        return [
            judge.at_least(f"{mode.name}: {what}", count, least),
            judge.at_least(
                f"{mode.name}: the program found it served", seen["service_available"], AVAILABLE
            ),
            judge.none(f"{mode.name}: the bystander's errors", seen["errors"]),
            judge.at_most(f"{mode.name}: its p99", seen["p99_ms"], p99, " ms"),
            judge.at_most(f"{mode.name}: all ended after", seen["ended_after_s"], bound, " s"),
            judge.at_most(f"{mode.name}: memory grew by", seen["grown_kib"], most, " KiB"),
        ]


def nginx(place: Place) -> str:
    address, config = place.address(), place.folder / "nginx.conf"
    (place.folder / "big").write_bytes(bytes(BIG))
    config.write_text(NGINX.format(folder=place.folder, address=address))
    return place.serve("nginx", ["nginx", "-c", str(config)], address)


def suffered(place: Place, front: Front, endpoint: str, mode: Mode, number: int) -> dict:
    """One attack, between a quiet time and the end of the last slow connection."""
    own = open_connections(front)
    loads = [
        Load(f"{name}-{number}", target, place.folder, place.cpus, [BESIDE], 10.0)
        for name, target in (("beside", front.clear), ("direct", endpoint))
    ]
    time.sleep(0.5)
    begun = time.monotonic_ns()
    time.sleep(QUIET_SECONDS)
    before = front.child.rss_kib()
    watch = admin.Watch(lambda: open_connections(front) - own - BESIDE.clients)
    memory = admin.Watch(lambda: float(front.child.rss_kib()))
    struck, struck_at = time.monotonic_ns(), len(front.access_log())
    attack(place, front, mode, number)
    healed = time.monotonic_ns()
    time.sleep(0.5)
    open_seen, rss_seen = watch.close(), memory.close()
    asked, direct = (load.finish() for load in loads)
    logged = seconds_of(front, mode.path, struck_at)
    return {
        "mode": mode.name,
        "errors": sum(request.failed for request in asked),
        "requests": len(asked),
        "quiet_p99_ms": p99(asked, begun, struck),
        "p99_ms": p99(asked, struck, healed),
        "direct_p99_ms": p99(direct, struck, healed),
        "peak": max((count for _, count in open_seen if count), default=0),
        "ended_after_s": ended_after(open_seen, struck),
        "rss_before_kib": before,
        "grown_kib": -before + max(value for _, value in rss_seen if value),
        "logged": len(logged),
        "longest_s": round(max(logged, default=0.0), 2),
        "service_available": available(place.folder / f"slow-{number}.csv"),
    }


def ended_after(seen: list[tuple[int, float | None]], struck: int) -> float | None:
    """Seconds until only the program's own probes were left; None if nobody looked."""
    known = [(at, count) for at, count in seen if count is not None]
    last = max((at for at, count in known if count > PROBES), default=struck)
    return round((last - struck) / 1e9, 2) if known else None


def p99(asked: list[Asked], begin: int, end: int) -> float | None:
    found = percentile(latencies(asked, begin, end), 0.99)
    return None if found is None else round(found, 2)


def seconds_of(front: Front, path: str, since: int) -> list[float]:
    """What the attack's requests took that were logged: the log comes up to a second late."""
    time.sleep(1.2)
    lines = front.access_log()[since:].splitlines()
    lines = [json.loads(line) for line in lines if line.endswith("}")]
    return [line["duration_ms"] / 1000 for line in lines if line.get("target") == path]


def open_connections(front: Front) -> float:
    return front.metric("meridian_connections", 'listener="clear"')


def attack(place: Place, front: Front, mode: Mode, number: int) -> None:
    """Until nothing of it is open any more. RuntimeError if the program failed."""
    argv = [
        tool("slowhttptest"),
        *mode.arguments,
        "-c",
        str(mode.connections),
        "-r",
        str(mode.a_second),
    ]
    argv += [
        "-l",
        str(LONGEST_SECONDS),
        "-p",
        "3",
        "-g",
        "-o",
        str(place.folder / f"slow-{number}"),
    ]
    done = subprocess.run(
        [*argv, "-u", f"http://{front.clear}{mode.path}"],
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS + 30,
        check=False,
    )
    if "Exit status" not in done.stdout + done.stderr:
        raise RuntimeError(f"slowhttptest: {(done.stdout + done.stderr)[-500:]}")


def available(file: Path) -> float | None:
    """The share of its own samples in which it found the service available."""
    if not file.exists():
        return None
    with file.open() as text:
        rows = [row for row in csv.reader(text)][1:]
    found = [int(row[-1]) > 0 for row in rows if row and row[-1].strip().isdigit()]
    return round(sum(found) / len(found), 3) if found else None
