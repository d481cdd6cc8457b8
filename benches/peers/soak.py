#!/usr/bin/env python3
"""Runs Meridian for a while under traffic, faults and reloads, and says whether it stays the same.

    soak.py --binary target/release/meridian --minutes 30 --json FILE [--svg FILE] [--seed N]

Four regions of two endpoints, each a process. Clients of all kinds, good and bad; a reload every
few seconds; every 20 to 30 s a region is killed, frozen or restarted. Every 10 s memory, open
files, threads and latency are noted. Exit code 0 if the last quarter is like the second, 1 if not
(the output says what grew), 2 if it could not run. --svg needs matplotlib; `report.py` draws the
same from the JSON.
"""

import argparse
import asyncio
import datetime
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from endurance import traffic
from endurance.clients import Notes
from endurance.faults import Faults, Reloads
from endurance.regions import ENDPOINTS_PER_REGION, REGIONS, make_regions
from endurance.verdict import judge
from lab import client, machine, ports
from lab.load import percentile
from lab.process import Child

SAMPLE_SECONDS = 10


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", default="target/release/meridian")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--sample", type=float, default=SAMPLE_SECONDS, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    return parser.parse_args()


class Soak:
    """Everything that runs, and what was noted."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        names = ("h1", "h2", "admin")
        found = ports.free_ports(len(names) + len(REGIONS) * ENDPOINTS_PER_REGION)
        self.ports = dict(zip(names, found))
        self.cpus = machine.layout()
        self.file_limit = machine.raise_file_limit()
        self.regions = make_regions(folder, found[len(names) :], self.cpus.load)
        self.notes, self.samples = Notes(), []
        self.edge: Child | None = None

    async def run(self) -> dict:
        for region in self.regions:
            region.each("start")
        if not all(endpoint.is_open() for region in self.regions for endpoint in region.endpoints):
            raise RuntimeError("the endpoints did not start")
        start = time.monotonic()
        faults = Faults(self.regions, self.options.seed, start)
        reloads = self._start_edge()
        background = [asyncio.create_task(faults.run()), asyncio.create_task(reloads.run())]
        clients = traffic.start(self.ports, self.notes, self.folder, self.cpus.load)
        try:
            await self._sample(start)
        finally:
            await traffic.stop(clients + background)
        return self._record(faults, reloads)

    def _start_edge(self) -> Reloads:
        output = self.folder / "edge.log"
        reloads = Reloads(self.folder, self.ports, self.regions)
        reloads.write(0)
        argv = [self.options.binary, "run", "--config", str(self.folder / "meridian.toml")]
        self.edge = reloads.edge = Child(argv, self.cpus.proxy, log=output)
        if not client.wait_until_ready(f"127.0.0.1:{self.ports['admin']}"):
            raise RuntimeError(f"the edge did not start: {output.read_text()[-1500:]}")
        return reloads

    async def _sample(self, start: float) -> None:
        """Until the time is over or the edge is gone."""
        count = max(int(self.options.minutes * 60 / self.options.sample), 1)
        for number in range(1, count + 1):
            await asyncio.sleep(max(start + number * self.options.sample - time.monotonic(), 0))
            if not self.edge.is_running():
                return
            recent = self.notes.take_recent()
            sample = {
                "at": round(time.monotonic() - start, 1),
                "rss_kib": self.edge.rss_kib(),
                "descriptors": self.edge.descriptors(),
                "threads": self.edge.threads(),
                "cpu_seconds": round(self.edge.cpu_seconds(), 3),
                "requests": len(recent),
                "p50_us": percentile(recent, 0.5),
                "p99_us": percentile(recent, 0.99),
            }
            self.samples.append(sample)
            print(
                "  ".join(
                    f"{key} {value:.6g}" for key, value in sample.items() if value is not None
                ),
                flush=True,
            )

    def _record(self, faults: Faults, reloads: Reloads) -> dict:
        causes = Counter(
            {f"{kind}: {cause}": count for (kind, cause), count in self.notes.failed.items()}
        )
        idempotent = {
            name: count
            for name, count in causes.items()
            if name.split(":")[0] in traffic.IDEMPOTENT
        }
        verdict = judge(self.samples, faults.log, self.options.sample)
        if not self.edge.is_running():
            verdict = {"flat": False, "reason": "the edge ended by itself"}
        version = machine.first_line([self.options.binary, "version"], r"meridian (.*)")
        return {
            "format": 1,
            "kind": "soak",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": ["soak.py", *machine.without_paths(sys.argv[1:])],
            "machine": machine.describe(self.file_limit),
            "tools": machine.tools(),
            "programs": {"meridian": version},
            "seed": self.options.seed,
            "minutes": self.options.minutes,
            "answered": dict(self.notes.answered),
            "failed_idempotent": idempotent,
            "failed_other": {name: n for name, n in causes.items() if name not in idempotent},
            "reloads": dict(reloads.ways),
            "reloads_refused": reloads.refused,
            "reload_ms": reloads.milliseconds,
            "faults": faults.log,
            "samples": self.samples,
            "verdict": verdict,
        }

    def stop(self) -> None:
        for region in self.regions:
            region.each("stop")
        if self.edge:
            self.edge.stop()


def publish(record: dict, options: argparse.Namespace) -> None:
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.svg:
        from reporting.plots import draw_soak  # matplotlib only where it is asked for

        draw_soak(record, options.svg)
    shown = {
        key: record[key]
        for key in (
            "answered",
            "failed_idempotent",
            "failed_other",
            "reloads",
            "reloads_refused",
            "verdict",
        )
    }
    print(json.dumps(shown, indent=1))


def main() -> int:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.binary = shutil.which(options.binary) or options.binary
    folder = Path(tempfile.mkdtemp(prefix="meridian-soak-"))
    folder.chmod(0o755)
    soak = Soak(options, folder)
    os.sched_setaffinity(0, {int(soak.cpus.load)})
    try:
        record = asyncio.run(soak.run())
        publish(record, options)
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        soak.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if record["verdict"]["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
