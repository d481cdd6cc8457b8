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
import datetime
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import topology  # first: it makes the fault suite's harness known
from harness import sandbox
from lab import machine
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

FORMAT = 1
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    everything = [name for name in PARTS if PARTS[name].short or not options.short]
    names = options.part.split(",") if options.part else everything
    if unknown := set(names) - set(PARTS):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    options.part = names
    if not Path(options.binary).exists():
        parser.error(f"there is no program {options.binary!r}")
    return options


def lacking() -> str | None:
    if os.geteuid() != 0:
        return "this needs root"
    return sandbox.lacks("sandbox") or postgres.lacking()


class Run:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        plan = parts.SHORT if options.short else parts.WHOLE
        if options.operations:
            plan = parts.replace(plan, operations=options.operations)
        if options.seconds:
            plan = parts.replace(plan, seconds=options.seconds)
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.setting = parts.Setting(options.binary, folder, cpus, plan, options.seed)
        arguments = [*sys.argv[1:]]
        if "--seed" not in arguments:
            arguments += ["--seed", str(options.seed)]
        self.record = {
            "format": FORMAT,
            "kind": "consistency",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": ["tests/consistency/run.py", *machine.without_paths(arguments)],
            "plan": plan.name,
            "seed": options.seed,
            "machine": machine.describe(machine.raise_file_limit()),
            "postgresql": postgres.version(),
            "rows": [],
        }

    def all(self) -> None:
        for name in self.options.part:
            self._note(self._row(PARTS[name](self.setting)))

    def _row(self, part: "parts.Part") -> dict:
        row = {"part": part.name, "title": part.title, "not_measured": part.lacking()}
        if row["not_measured"]:
            return row
        begun = time.monotonic()
        try:
            row["checks"] = [check.record(common=False) for check in part.tried()]
        except (RuntimeError, OSError, psycopg.Error) as problem:
            row["error"] = f"{type(problem).__name__}: {problem}"
        row["figures"] = part.figures
        row["seconds"] = round(time.monotonic() - begun, 1)
        return row

    def _note(self, row: dict) -> None:
        self.record["rows"].append(row)
        print(f"{row['part']}: {json.dumps(row.get('figures', {}), indent=1)}", flush=True)
        if row["not_measured"]:
            print(f"    not measured: {row['not_measured']}", flush=True)
        if "error" in row:
            print(f"    failed: {row['error']}", flush=True)
        for check in row.get("checks", []):
            print(f"    {'      ' if check['kept'] else 'MISSED'} {check['text']}", flush=True)
        if self.options.json:
            self.options.json.parent.mkdir(parents=True, exist_ok=True)
            self.options.json.write_text(json.dumps(self.record, indent=1) + "\n")

    def missed(self) -> int:
        return sum(
            sum(not check["kept"] for check in row.get("checks", [])) + ("error" in row)
            for row in self.record["rows"]
        )


def main() -> int:
    options = parsed(sys.argv[1:])
    sandbox.enter()
    if reason := lacking():
        print(f"run.py: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="meridian-consistency-"))
    folder.chmod(0o755)
    print(f"seed {options.seed}", flush=True)
    begun = time.monotonic()
    try:
        run = Run(options, folder)
        run.all()
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed = run.missed()
    print(
        f"{len(run.record['rows'])} parts in {time.monotonic() - begun:.0f} s, seed "
        f"{options.seed}, {missed} bounds missed"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
