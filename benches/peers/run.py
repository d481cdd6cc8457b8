#!/usr/bin/env python3
"""Compares proxies side by side: CPU per request, latency, memory.

    run.py --proxy meridian=target/release/meridian --proxy nginx --proxy haproxy --json FILE
    run.py --proxy meridian=NEW --proxy meridian-old=OLD --mode h1,h2 --rounds 5

The proxy runs on CPU 0, load generator and backend on CPU 1. The figure to compare is the proxy's
CPU time per request: a ratio taken in one run holds on a shared machine where throughput does
not. Proxies take turns within a round; `report.py` takes medians over the rounds. Every mode is
explained at the head of its file in modes/. Needs wrk, h2load, openssl, nginx (the backend), and
the proxies that are named. All sockets are on loopback.
"""

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import modes
from lab import backend, machine, ports
from lab.load import LoadFailed
from modes.base import Bench, Case
from modes.scale import CURVES
from proxies import KINDS, Proxy, Site, named
from proxies.base import DidNotStart
from reporting import tables
from reporting.results import Results

BACKEND_ADDRESSES = 12
MODES_WITH_ALIASES = {"scale"}
FORMAT = 1


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--proxy",
        action="append",
        metavar="NAME[=BINARY]",
        help=f"{', '.join(KINDS)}; NAME-ANYTHING=BINARY for another build; repeat",
    )
    parser.add_argument(
        "--mode",
        default=",".join(modes.YARDSTICK),
        help=f"comma-separated, or 'all'; of: {', '.join(modes.MODES)}",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--case", default="", help="only variants that contain this, e.g. routes=")
    parser.add_argument("--json", type=Path, help="raw figures of all rounds")
    options = parser.parse_args(arguments)
    options.mode = list(modes.MODES) if options.mode == "all" else options.mode.split(",")
    if unknown := set(options.mode) - set(modes.MODES):
        parser.error(f"unknown mode: {', '.join(sorted(unknown))}")
    options.proxy = [named(argument) for argument in options.proxy or ["nginx", "haproxy"]]
    return options


class Run:
    """One run: what was measured so far, and what could not be."""

    def __init__(self, options: argparse.Namespace, site: Site, bench: Bench) -> None:
        self.options, self.site, self.bench = options, site, bench
        self.record = {
            "format": FORMAT,
            "kind": "peers",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": ["run.py", *machine.without_paths(sys.argv[1:])],
            "machine": machine.describe(bench.file_limit),
            "tools": machine.tools(),
            "programs": {},
            "rounds": options.rounds,
            "seconds": options.seconds,
            "measurements": [],
            "unsupported": [],
        }

    def steps(self) -> list[tuple[Proxy, list[Case]]]:
        """One round: each step is one process. Proxies take turns, slot by slot."""
        usable = [proxy for proxy in self.options.proxy if self._is_usable(proxy)]
        together, alone = {}, {}
        for mode in self.options.mode:
            for proxy in usable:
                for case in self._supported(mode, proxy):
                    if case.shares_process:
                        together.setdefault(proxy, []).append(case)
                    else:
                        alone.setdefault(mode, {}).setdefault(proxy, []).append([case])
        steps = list(together.items())
        for by_proxy in alone.values():
            for slot in range(max(map(len, by_proxy.values()))):
                steps += [
                    (proxy, slots[slot]) for proxy, slots in by_proxy.items() if slot < len(slots)
                ]
        return steps

    def _is_usable(self, proxy: Proxy) -> bool:
        installed = proxy.is_installed()
        self.record["programs"][proxy.name] = proxy.version() if installed else None
        if not installed:
            print(f"{proxy.name}: not installed, left out", file=sys.stderr)
        return installed

    def _supported(self, mode: str, proxy: Proxy) -> list[Case]:
        found, refusals = [], {}
        for case in modes.MODES[mode](mode, proxy, self.bench):
            if self.options.case not in case.variant:
                continue
            key = case.setup
            if key not in refusals:
                refusals[key] = proxy.refusal(self.site, key)
            if refusals[key] is None:
                found.append(case)
                continue
            print(
                f"{proxy.name}: {mode} {case.variant}: not supported: {refusals[key]}",
                file=sys.stderr,
            )
            self.record["unsupported"].append(
                {
                    "mode": mode,
                    "proxy": proxy.name,
                    "variant": case.variant,
                    "reason": refusals[key],
                }
            )
        return found

    def step(self, number: int, proxy: Proxy, cases: list[Case]) -> None:
        listeners = frozenset().union(*(case.setup.listeners for case in cases))
        setup = dataclasses.replace(cases[0].setup, listeners=listeners)
        cpus = getattr(self.bench.cpus, cases[0].proxy_cpus)
        try:
            with proxy.start(self.site, setup, cpus) as running:
                for case in cases:
                    self._measure(number, case, running)
        except DidNotStart as problem:
            for case in cases:
                self._note(number, proxy, case, {"error": str(problem)})

    def _measure(self, number: int, case: Case, running) -> None:
        child, cpus = running.child, getattr(self.bench.cpus, case.proxy_cpus)
        own, busy, begin = child.cpu_seconds(), machine.busy_seconds(cpus), time.monotonic()
        try:
            figures = case.measure(self.bench, running)
        except (LoadFailed, OSError, ValueError) as problem:
            figures = {"error": f"{type(problem).__name__}: {problem}"}
        alone = case.proxy_cpus == "proxy" and self.bench.cpus.proxy != self.bench.cpus.load
        if alone:  # nobody else should be there
            foreign = machine.busy_seconds(cpus) - busy - (child.cpu_seconds() - own)
            figures["others"] = max(foreign, 0.0) / (time.monotonic() - begin)
        if not running.child.is_running():
            figures["error"] = "the proxy ended"
        self._note(number, running.proxy, case, figures)

    def _note(self, number: int, proxy: Proxy, case: Case, figures: dict) -> None:
        self.record["measurements"].append(
            {
                "mode": case.mode,
                "proxy": proxy.name,
                "variant": case.variant,
                "round": number,
                "figures": figures,
            }
        )
        shown = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in figures.items()
            if isinstance(value, (int, float, str))
        )
        print(f"{number} {case.mode:8s} {proxy.name:14s} {case.variant:16s} {shown}", flush=True)
        self.save()

    def summary(self) -> str:
        results = Results([self.record])
        parts = [
            table(results)
            for table in (
                tables.cpu,
                tables.latency,
                tables.log,
                tables.memory,
                tables.scale,
                tables.reload,
                tables.workers,
            )
        ]
        return "\n\n".join(["", *filter(None, parts), tables.worse(results)])

    def save(self) -> None:
        if not self.options.json:
            return
        self.options.json.parent.mkdir(parents=True, exist_ok=True)
        beside = self.options.json.with_suffix(".part")
        beside.write_text(json.dumps(self.record, indent=1) + "\n")
        beside.rename(self.options.json)


def aliases(port: int, count: int) -> tuple[str, ...]:
    return tuple(f"127.0.{1 + number // 250}.{1 + number % 250}:{port}" for number in range(count))


def prepare(folder: Path, options: argparse.Namespace) -> Site:
    names = ("h1", "h2", "tls", "admin", "syslog")
    found = ports.free_ports(len(names) + BACKEND_ADDRESSES + 1)
    needed = max(CURVES["endpoints"]) if MODES_WITH_ALIASES & set(options.mode) else 0
    backends = tuple(f"127.0.0.1:{port}" for port in found[len(names) : -1])
    return Site(folder, dict(zip(names, found)), backends, aliases(found[-1], needed))


def main() -> int:
    options = parsed(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cpus = machine.layout(times=not set(options.mode) <= modes.UNTIMED)
    bench = Bench(cpus, options.seconds, machine.raise_file_limit())
    os.sched_setaffinity(0, {int(cpus.load)})
    folder = Path(tempfile.mkdtemp(prefix="meridian-peers-"))
    try:
        folder.chmod(0o755)
        backend.make_certificate(folder)
        site = prepare(folder, options)
        behind = [*site.backends, *site.aliases]
        with backend.start_backend(folder / "backend", behind, cpus.load) as child:
            if not backend.wait_until_open(behind[0], child):
                raise SystemExit("the backend did not start")
            run = Run(options, site, bench)
            steps = run.steps()
            for number in range(options.rounds):
                for proxy, cases in steps:
                    run.step(number, proxy, cases)
            run.save()
            print(run.summary())
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = sum("error" in seen["figures"] for seen in run.record["measurements"])
    if failed:
        print(f"{failed} measurements failed; the figures say why", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
