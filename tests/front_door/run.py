#!/usr/bin/env python3
"""Public scanners and clients that others have written, against the real binary.

    run.py --binary target/debug/meridian
    run.py --binary target/release/meridian --case testssl.sh,curl --json docs/front-door.json

Each scanner is also let loose on a server that is bad on purpose, and must find it. Everything runs
on loopback, in a network, process table and mounts of its own (unshare: as root, or where others
may do that, too). Exit code 0 if every bound was kept, 1 if one was missed or a case could not run,
2 if the suite could not run.
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

import front  # noqa: F401  first: it makes the fault suite's harness known
from harness import sandbox
from lab import machine

try:
    from cases.base import Case, Place
    from cases.by_name import CASES
except ModuleNotFoundError as missing:
    sys.exit(f"run.py: {missing}; scripts/setup.sh front-door, then target/venv/bin/python run.py")

from front import certificates

FORMAT = 1


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", default="target/debug/meridian")
    parser.add_argument("--case", default="", help=f"comma-separated, of: {', '.join(CASES)}")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    options.case = options.case.split(",") if options.case else list(CASES)
    if unknown := set(options.case) - set(CASES):
        parser.error(f"unknown case: {', '.join(sorted(unknown))}")
    if not Path(options.binary).exists():
        parser.error(f"there is no program {options.binary!r}")
    return options


class Run:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.authority = certificates.authority(folder / "authority")
        binary = [options.binary, "version"]
        self.record = {
            "format": FORMAT,
            "kind": "front-door",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine.describe(machine.raise_file_limit()),
            "meridian": machine.first_line(binary, r"meridian (.*)"),
            "rows": [],
        }

    def all(self) -> None:
        for name in self.options.case:
            row = self._row(CASES[name]())
            self.record["rows"].append(row)
            tell(row)
            if self.options.json:
                self.options.json.write_text(json.dumps(self.record, indent=1) + "\n")

    def _row(self, case: Case) -> dict:
        row = {"case": case.name, "title": case.title, "version": "", "checks": []}
        begun = time.monotonic()
        if reason := case.lacks():
            return row | {"error": reason, "figures": {}, "seconds": 0.0}
        row["version"] = case.version()
        folder = self.folder / case.name
        folder.mkdir()
        folder.chmod(0o755)
        place = Place(self.options.binary, folder, self.cpus, self.authority)
        try:
            row["checks"] = [check.record(common=False) for check in case.run(place)]
        except (RuntimeError, OSError) as problem:
            row["error"] = f"{type(problem).__name__}: {problem}"
        finally:
            place.close()
        return row | {"figures": case.figures, "seconds": round(time.monotonic() - begun, 1)}

    def missed(self) -> int:
        """Bounds that were missed, and rows that failed."""
        return sum(
            sum(not check["kept"] for check in row["checks"]) + ("error" in row)
            for row in self.record["rows"]
        )


def tell(row: dict) -> None:
    print(f"{row['case']} {row['version']}, {row['seconds']} s", flush=True)
    for check in row["checks"]:
        print(f"    {'kept  ' if check['kept'] else 'MISSED'} {check['text']}", flush=True)
    if "error" in row:
        print(f"    FAILED {row['error']}", flush=True)
    for name, value in row["figures"].items():
        for each in value if isinstance(value, list) and name == "modes" else [value]:
            print(f"    {name}: {str(each)[:1000]}", flush=True)


def main() -> int:
    options = parsed(sys.argv[1:])
    sandbox.enter()
    if reason := sandbox.lacks("sandbox"):
        print(f"run.py: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="meridian-front-door-"))
    folder.chmod(0o755)
    begun = time.monotonic()
    try:
        run = Run(options, folder)
        run.all()
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed, rows = run.missed(), run.record["rows"]
    checks = sum(len(row["checks"]) for row in rows)
    print(f"{len(rows)} cases in {time.monotonic() - begun:.0f} s")
    broken = sum("error" in row for row in rows)
    print(f"front-door: {checks + broken - missed} passed, {missed} failed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
