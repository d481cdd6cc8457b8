#!/usr/bin/env python3
"""Meridian before a replicated PostgreSQL while things go wrong: do the seven invariants hold?

    run.py --binary target/debug/meridian --short
    run.py --binary target/debug/meridian --part history --seed 7 --json docs/consistency.json

Three regions with PostgreSQL and the example application of docs/examples, two edges, clients with
sessions. Everything runs on loopback, in a network, process table and mounts of its own (unshare),
as root: PostgreSQL and Patroni run as a user without privileges. What clients, applications and
databases wrote down is judged afterwards. The seed of what goes wrong is printed; the times at
which it strikes are the machine's own. Exit code 0 if everything was kept, 1 if something was not,
2 if the suite could not run.
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

import topology  # first: it makes the fault suite's harness known
from harness import sandbox, suite
from topology import postgres

try:
    import psycopg

    import contested
    import elected
    import examples
    import parts
    import planned
except ModuleNotFoundError as missing:
    sys.exit(f"run.py: {missing}; scripts/setup.sh consistency, then target/venv/bin/python run.py")

PARTS: dict[str, type[parts.Part]] = {
    part.name: part
    for part in (
        examples.Examples,
        parts.Faults,
        parts.Unfenced,
        contested.Contested,
        planned.Switchover,
        planned.SwitchoverOfTwo,
        planned.Distribution,
        elected.Elected,
    )
}


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = suite.parser(__doc__)
    parser.add_argument("--binary", default="target/debug/meridian")
    parser.add_argument("--short", action="store_true", help="shorter, fewer nemeses")
    parser.add_argument("--part", default="", help=f"comma-separated, of: {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, help="default: another one every time")
    parser.add_argument("--operations", type=int, help="of the history, at least")
    parser.add_argument("--seconds", type=float, help="of the history, at most")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    options.part = suite.chosen(parser, "part", options.part, PARTS, options.short)
    if not Path(options.binary).exists():
        parser.error(f"there is no program {options.binary!r}")
    return options


def lacking() -> str | None:
    if os.geteuid() != 0:
        return "this needs root"
    return sandbox.lacks("sandbox") or postgres.lacking()


def everything(options: argparse.Namespace, folder: Path) -> suite.Record:
    """All parts that are wanted, one after another."""
    plan = parts.SHORT if options.short else parts.WHOLE
    if options.operations:
        plan = parts.replace(plan, operations=options.operations)
    if options.seconds:
        plan = parts.replace(plan, seconds=options.seconds)
    setting = parts.Setting(options.binary, folder, suite.cpus(), plan, options.seed)
    command = ["tests/consistency/run.py", *sys.argv[1:]]
    if "--seed" not in command:
        command += ["--seed", str(options.seed)]
    record = suite.Record(
        "consistency",
        command,
        options.json,
        plan=plan.name,
        seed=options.seed,
        postgresql=postgres.version(),
    )
    print(f"seed {options.seed}", flush=True)
    for name in options.part:
        record.note(row(PARTS[name](setting)), shown)
    print(f"seed {options.seed}", flush=True)
    return record


def row(part: "parts.Part") -> dict:
    """What came of one part."""
    found = {"part": part.name, "title": part.title, "not_measured": part.lacking()}
    if found["not_measured"]:
        return found
    begun = time.monotonic()
    try:
        found["checks"] = [check.record(common=False) for check in part.tried()]
    except (RuntimeError, OSError, psycopg.Error) as problem:
        found["error"] = f"{type(problem).__name__}: {problem}"
    found["figures"] = part.figures
    found["seconds"] = round(time.monotonic() - begun, 1)
    return found


def shown(row: dict) -> str:
    """One row for the terminal."""
    lines = [f"{row['part']}: {json.dumps(row.get('figures', {}), indent=1)}"]
    if row["not_measured"]:
        lines.append(f"    not measured: {row['not_measured']}")
    if "error" in row:
        lines.append(f"    failed: {row['error']}")
    lines += [f"    {check['text']}" for check in row.get("checks", []) if check["kept"]]
    return "\n".join(lines)


def main() -> int:
    options = parsed(sys.argv[1:])
    sandbox.enter()
    if reason := lacking():
        print(f"run.py: {reason}", file=sys.stderr)
        return 2
    return suite.lived("consistency", lambda folder: everything(options, folder))


if __name__ == "__main__":
    sys.exit(main())
