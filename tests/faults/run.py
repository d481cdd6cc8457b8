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
import sys
import time
from pathlib import Path

import harness  # first: it makes the process lab of the benchmarks known
import cases
import edges
from cases.base import Case
from edges import DidNotStart, Edge
from harness import sandbox, suite
from harness.plan import SHORT, WHOLE, Plan
from harness.trial import Trial


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = suite.parser(__doc__)
    parser.add_argument(
        "--proxy",
        action="append",
        metavar="NAME[=BINARY]",
        help=f"{', '.join(edges.KINDS)}; repeat; default: meridian=target/release/meridian",
    )
    parser.add_argument(
        "--case", default="", help=f"comma-separated, of: {', '.join(cases.CASES)}"
    )
    parser.add_argument("--short", action="store_true", help="shorter, smaller, fewer cases")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    options.case = suite.chosen(parser, "case", options.case, cases.CASES, options.short)
    try:
        wanted = options.proxy or ["meridian=target/release/meridian"]
        options.proxy = [edges.named(argument) for argument in wanted]
    except ValueError as problem:
        parser.error(str(problem))
    return options


def everything(options: argparse.Namespace, folder: Path) -> suite.Record:
    """All cases that are wanted, for every proxy."""
    plan: Plan = SHORT if options.short else WHOLE
    command = ["tests/faults/run.py", *sys.argv[1:]]
    programs = {edge.name: edge.version() for edge in options.proxy}
    record = suite.Record("faults", command, options.json, plan=plan.name, programs=programs)
    for name in options.case:
        for edge in options.proxy:
            case = cases.CASES[name]()
            if edge.is_meridian or case.peers:
                record.note(row(case, edge, plan, folder), line)
    if left := [name for name in cases.CASES if name not in options.case]:
        print(f"left out: {', '.join(left)}")
    return record


def row(case: Case, edge: Edge, plan: Plan, folder: Path) -> dict:
    """What came of one case with one proxy."""
    found = {"case": case.name, "title": case.title, "proxy": edge.name}
    reasons = [sandbox.lacks(need) for need in case.needs] + [case.refusal(edge)]
    found["not_measured"] = next(filter(None, reasons), None)
    if found["not_measured"]:
        return found
    own = folder / f"{case.name}-{edge.name}"
    own.mkdir()
    own.chmod(0o755)
    begun = time.monotonic()
    try:
        found |= tried(case, edge, plan, own, suite.cpus())
    except (DidNotStart, RuntimeError, OSError) as problem:
        found["error"] = f"{type(problem).__name__}: {problem}"
    found["seconds"] = round(time.monotonic() - begun, 1)
    return found


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
    return suite.lived("faults", lambda folder: everything(options, folder))


if __name__ == "__main__":
    sys.exit(main())
