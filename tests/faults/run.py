#!/usr/bin/env python3
"""Strikes a proxy with every fault of the contract, under load, and judges what clients saw.

    run.py --proxy meridian=target/release/meridian
    run.py --proxy meridian=NEW --proxy nginx --proxy haproxy --case kill,freeze --json FILE
    run.py --proxy meridian=target/release/meridian --short

Clients and endpoints note every request by its id; their notes are laid side by side, and what
the proxy sends to endpoints is read off the wire. Everything runs in a network, process table and
mounts of its own (unshare: as root, or where others may do that, too). What the machine or the
program cannot do is a row that says so. Exit code 0 if Meridian kept every bound that was
measured, 1 if one was missed, 2 if the suite could not run. Peers are measured, not judged.
"""

import argparse
import datetime
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import harness  # first: it makes the process lab of the benchmarks known
import cases
import edges
from cases.base import Case
from edges import DidNotStart, Edge
from harness import sandbox
from harness.plan import SHORT, WHOLE, Plan
from harness.trial import Trial
from lab import machine

FORMAT = 1


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--proxy",
        action="append",
        metavar="NAME[=BINARY]",
        help=f"{', '.join(edges.KINDS)}; repeat; default: meridian=target/release/meridian",
    )
    parser.add_argument(
        "--case", default="all", help=f"comma-separated, of: {', '.join(cases.CASES)}"
    )
    parser.add_argument("--short", action="store_true", help="shorter, smaller, fewer cases")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    everything = [name for name, case in cases.CASES.items() if case.short or not options.short]
    options.case = everything if options.case == "all" else options.case.split(",")
    if unknown := set(options.case) - set(cases.CASES):
        parser.error(f"unknown case: {', '.join(sorted(unknown))}")
    try:
        wanted = options.proxy or ["meridian=target/release/meridian"]
        options.proxy = [edges.named(argument) for argument in wanted]
    except ValueError as problem:
        parser.error(str(problem))
    return options


class Run:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.plan: Plan = SHORT if options.short else WHOLE
        self.cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.record = {
            "format": FORMAT,
            "kind": "faults",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": ["tests/faults/run.py", *machine.without_paths(sys.argv[1:])],
            "plan": self.plan.name,
            "machine": machine.describe(machine.raise_file_limit()),
            "programs": {edge.name: edge.version() for edge in options.proxy},
            "rows": [],
        }

    def all(self) -> None:
        for name in self.options.case:
            for edge in self.options.proxy:
                case = cases.CASES[name]()
                if edge.is_meridian or case.peers:
                    self._note(self._row(case, edge))

    def _row(self, case: Case, edge: Edge) -> dict:
        row = {"case": case.name, "title": case.title, "proxy": edge.name, "not_measured": None}
        reasons = [sandbox.lacks(need) for need in case.needs] + [case.refusal(edge)]
        row["not_measured"] = next(filter(None, reasons), None)
        if row["not_measured"]:
            return row
        folder = self.folder / f"{case.name}-{edge.name}"
        folder.mkdir()
        folder.chmod(0o755)
        begun = time.monotonic()
        try:
            row |= tried(case, edge, self.plan, folder, self.cpus)
        except (DidNotStart, RuntimeError, OSError) as problem:
            row["error"] = f"{type(problem).__name__}: {problem}"
        row["seconds"] = round(time.monotonic() - begun, 1)
        return row

    def _note(self, row: dict) -> None:
        self.record["rows"].append(row)
        print(line(row), flush=True)
        for check in row.get("checks", []):
            if not check["kept"]:
                mark = "MISSED" if row["proxy"] == "meridian" else "      "
                print(f"    {mark} {check['text']}", flush=True)
        if self.options.json:
            self.options.json.parent.mkdir(parents=True, exist_ok=True)
            self.options.json.write_text(json.dumps(self.record, indent=1) + "\n")

    def missed(self) -> int:
        """Bounds that Meridian missed, and rows of it that failed."""
        own = [row for row in self.record["rows"] if row["proxy"] == "meridian"]
        return sum(
            sum(not check["kept"] for check in row.get("checks", [])) + ("error" in row)
            for row in own
        )


def tried(case: Case, edge: Edge, plan: Plan, folder: Path, cpus: str) -> dict:
    """Figures and checks of one case."""
    trial = Trial(case.prepared(edge, folder), plan, folder, case.regions, cpus)
    try:
        trial.start(case.settings(trial), case.flows, case.patience(trial))
        case.run(trial)
        trial.finish()
        trial.measure(case.victims(trial))
        common, own = trial.nothing_applied_wrongly(), case.checks(trial)
    finally:
        trial.close()
        case.clean()
    return {
        "figures": trial.figures,
        "checks": [check.record(common=True) for check in common]
        + [check.record(common=False) for check in own],
    }


def line(row: dict) -> str:
    """One row for the terminal."""
    start = f"{row['case']:14s} {row['proxy']:9s}"
    if row["not_measured"]:
        return f"{start} not measured: {row['not_measured']}"
    if "error" in row:
        return f"{start} failed: {row['error']}"
    seen = row["figures"]
    shown = (
        f"GET {seen['gets']} failed {seen['failed_gets']}  POST {seen['posts']} failed "
        f"{seen['failed_posts']} doubled {seen['doubled_posts']}  out after {seen['ejection_s']} s"
        f"  recovery {seen['recovery_s']} s  bystander p99 {seen['bystander_p99_ms']} ms"
        f" (quiet {seen['bystander_quiet_p99_ms']})"
    )
    return f"{start} {shown}"


def main() -> int:
    options = parsed(sys.argv[1:])
    sandbox.enter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="meridian-faults-"))
    folder.chmod(0o755)
    begun = time.monotonic()
    try:
        run = Run(options, folder)
        run.all()
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed = run.missed()
    if left := [name for name in cases.CASES if name not in options.case]:
        print(f"left out: {', '.join(left)}")
    skipped = sum(bool(row["not_measured"]) for row in run.record["rows"])
    print(
        f"{len(run.record['rows'])} rows in {time.monotonic() - begun:.0f} s, "
        f"{skipped} not measured, {missed} bounds missed"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
