#!/usr/bin/env python3
"""Instructions that a request costs an edge, held against bounds.toml. Times nothing.

    run.py [BINARY]                 all modes: a table; exit code 1 if one is over its bound
    run.py --mode h1,h2 --json      some modes, as JSON
    run.py --record                 writes bounds.toml: what was measured, plus 5 % (big: 12 %)
    run.py --profile MODE           where the instructions of one mode go
    run.py --syscalls               system calls a request, by strace

Counted are user-space instructions of all threads (callgrind), as the quotient of two differences:
what MORE requests cost beyond FEWER in the same process, so that start, connections and ticks fall
out. Needs valgrind, h2load and openssl. Exit codes: 0 well, 1 over a bound, 2 could not measure.
"""

import argparse
import contextlib
import json
import math
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass

import calls
import edge
import traffic
from dump import Profile

HERE = pathlib.Path(__file__).resolve().parent
BOUNDS = HERE / "bounds.toml"
DEFAULT_BINARY = HERE.parent.parent / "target/release/meridian"
MARGIN = 1.05
# How often a large answer wakes the edge differs from run to run.
MARGINS = {"big": 1.12}
# Below this share of its bound, a bound guards little and should be recorded again.
LOOSE = 0.85
NOT_YET = "not available in this version"
PATH = "/api/items/42"


@dataclass(frozen=True)
class Mode:
    """One kind of traffic. `setup` names the edge it needs: plain, log or tls."""

    name: str
    about: str
    message: bytes | None = None  # None: h2load sends GET
    path: str = PATH
    setup: str = "plain"
    status: int = 200
    connections: int = traffic.CONNECTIONS
    fewer: int = 320
    more: int = 3520

    def send(self, ports, count):
        """Sends exactly `count` requests and awaits their answers."""
        tls = self.setup == "tls"
        if self.message is None:
            traffic.send_http2(ports["tls" if tls else "h2c"], self.path, count, tls)
        else:
            traffic.send_http1(ports["tls" if tls else "http1"], self.message, count,
                               self.status, tls, self.connections)


GET = traffic.request("GET", PATH)
MODES = [
    Mode("h1", "HTTP/1.1, Host only", GET),
    Mode("h1-browser", "HTTP/1.1, 12 headers", traffic.request("GET", PATH, traffic.BROWSER)),
    Mode("h2", "HTTP/2, prior knowledge"),
    Mode("post", "HTTP/1.1, 4 KiB body",
         traffic.request("POST", PATH, body=b"y" * traffic.POST_BYTES)),
    Mode("big", "HTTP/1.1, 1 MiB answer", traffic.request("GET", "/api/big"),
         connections=traffic.BIG_CONNECTIONS, fewer=16, more=3216),
    Mode("refused", "HTTP/1.1, no route: 404", traffic.request("GET", "/nowhere"), status=404),
    Mode("h1-log", "h1 with a JSON access log", GET, setup="log"),
    Mode("tls1", "h1 over TLS 1.3", GET, setup="tls"),
    Mode("tls2", "h2 over TLS 1.3", setup="tls"),
]


class Site:
    """A directory, backends, and edges of one binary in front of them."""

    def __init__(self, binary, directory, backends):
        self.binary = binary
        self.directory = directory
        self.backends = backends

    def configure(self, setup):
        """Writes a configuration: its directory and ports, or None if this version cannot yet."""
        place = self.directory / setup
        place.mkdir(exist_ok=True)
        ports = edge.free_ports("http1", "h2c", "admin", "tls")
        text = edge.configuration(ports, self.backends,
                                  access_log="access.log" if setup == "log" else "off",
                                  tls=edge.certificate(place) if setup == "tls" else None)
        config = place / "meridian.toml"
        config.write_text(text)
        complaint = edge.check(self.binary, config)
        if complaint and setup == "tls" and NOT_YET in complaint:
            return None
        if complaint:
            raise traffic.Failure(complaint)
        return place, ports

    @contextlib.contextmanager
    def running(self, kind, setup):
        """A running edge of this kind; tries again if a port was taken in the meantime."""
        for attempt in range(3):
            configured = self.configure(setup)
            if configured is None:
                yield None
                return
            running = kind(self.binary, *configured)
            try:
                running.__enter__()
                break
            except traffic.Failure:
                if attempt == 2:
                    raise
        with contextlib.ExitStack() as stack:
            stack.push(running.__exit__)
            yield running


def count(counted, mode, repeats):
    """Instructions a request, once per repeat, after a round that only warms up."""
    figures = []
    mode.send(counted.ports, mode.fewer)
    counted.dump()
    for _ in range(repeats):
        totals = []
        for requests in (mode.fewer, mode.more):
            mode.send(counted.ports, requests)
            totals.append(counted.dump()[1])
        figures.append((totals[1] - totals[0]) / (mode.more - mode.fewer))
    return figures


def judge(mode, figures, bound):
    """One row of the answer."""
    median = statistics.median(figures)
    verdict = "no bound"
    if bound is not None:
        verdict = "over" if median > bound else "ok"
        if median < bound * LOOSE:
            verdict = "loose"
    return {"mode": mode.name, "instructions": round(median), "bound": bound, "verdict": verdict,
            "spread": round((max(figures) - min(figures)) / median, 5),
            "repeats": [round(f) for f in figures]}


def measure(site, modes, repeats, bounds, report):
    """Rows of all modes; those that this version cannot serve are left out."""
    rows = []
    for setup in dict.fromkeys(mode.setup for mode in modes):
        chosen = [mode for mode in modes if mode.setup == setup]
        with site.running(edge.CountedEdge, setup) as counted:
            for mode in chosen:
                if counted is None:
                    rows.append({"mode": mode.name, "verdict": "skipped"})
                else:
                    try:
                        figures = count(counted, mode, repeats)
                    except (traffic.Failure, OSError) as failure:
                        raise traffic.Failure(
                            f"{mode.name}: {failure}\n{counted.said()}") from failure
                    rows.append(judge(mode, figures, bounds.get(mode.name)))
                report(mode, rows[-1])
        if setup == "log" and counted and not (site.directory / "log/access.log").stat().st_size:
            raise traffic.Failure("the access log is empty: mode h1-log measured something else")
    return rows


def print_row(mode, row):
    """One line of the table."""
    if row["verdict"] == "skipped":
        print(f"{mode.name:<11}{'skipped: this version has no [listeners.tls]':>44}")
        return
    bound = f"{row['bound']:,}" if row["bound"] else "-"
    print(f"{mode.name:<11}{row['instructions']:>14,}{bound:>12}{row['spread']:>9.2%}  "
          f"{row['verdict']:<9} {mode.about}", flush=True)


def record(rows, bounds):
    """Rewrites bounds.toml; modes that were not measured keep theirs."""
    for row in rows:
        if row["verdict"] != "skipped":
            margin = MARGINS.get(row["mode"], MARGIN)
            bounds[row["mode"]] = math.ceil(row["instructions"] * margin / 10) * 10
    lines = ["# User-space instructions a request may cost; big: a MiB. Written by run.py --record",
             f"# as measured x {MARGIN}, big with more. Raise one only with a reason.", ""]
    lines += [f"{mode.name} = {bounds[mode.name]}" for mode in MODES if mode.name in bounds]
    BOUNDS.write_text("\n".join(lines) + "\n")


def print_profile(site, mode):
    """Where the instructions of a mode go."""
    with site.running(edge.CountedEdge, mode.setup) as counted:
        if counted is None:
            raise traffic.Failure(f"{mode.name}: this version has no [listeners.tls]")
        mode.send(counted.ports, mode.fewer)
        counted.dump()
        mode.send(counted.ports, mode.more)
        print(f"{mode.name}: {mode.about}")
        print(Profile(counted.dump()[0]).tables(mode.more))


def arguments():
    """The command line."""
    names = [mode.name for mode in MODES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", type=pathlib.Path, default=DEFAULT_BINARY)
    parser.add_argument("--mode", default=",".join(names), help="some of " + ",".join(names))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--profile", choices=names)
    parser.add_argument("--syscalls", action="store_true")
    chosen = parser.parse_args()
    if unknown := set(chosen.mode.split(",")) - set(names):
        parser.error(f"unknown mode {', '.join(sorted(unknown))}")
    if chosen.repeats < 1:
        parser.error("--repeats: at least 1")
    tools = ["strace"] if chosen.syscalls else ["valgrind", "vgdb"]
    if missing := [t for t in [*tools, "h2load", "openssl"] if not shutil.which(t)]:
        parser.error(f"not installed: {', '.join(missing)}")
    if not chosen.binary.is_file():
        parser.error(f"there is no {chosen.binary}: run `make build` first")
    return chosen


def run(chosen, site):
    """Does what the command line asks; the exit code."""
    modes = [mode for mode in MODES if mode.name in chosen.mode.split(",")]
    if chosen.profile:
        print_profile(site, next(mode for mode in MODES if mode.name == chosen.profile))
        return 0
    if chosen.syscalls:
        calls.print_all(site, modes)
        return 0
    bounds = tomllib.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    if not chosen.json:
        print(f"{'mode':<11}{'instructions':>14}{'bound':>12}{'spread':>9}")
    report = (lambda *_: None) if chosen.json else print_row
    rows = measure(site, modes, chosen.repeats, bounds, report)
    if chosen.json:
        print(json.dumps({"binary": str(site.binary), "modes": rows}, indent=1))
    if chosen.record:
        record(rows, bounds)
        return 0
    return int(any(row["verdict"] == "over" for row in rows))


def terminate(*_):
    """Ends the run with its edge; a second signal must not cut that short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(2)


def main():
    """Exit code 2 for whatever kept it from measuring."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, terminate)
    try:
        with tempfile.TemporaryDirectory(prefix="meridian-instructions-") as directory, \
                traffic.Backend(edge.HEALTH_SECONDS) as backend:
            site = Site(chosen.binary.resolve(), pathlib.Path(directory), backend.ports)
            return run(chosen, site)
    except (traffic.Failure, OSError, subprocess.SubprocessError) as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
