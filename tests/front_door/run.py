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
import subprocess
import sys
import time
from pathlib import Path

import front  # noqa: F401  first: it makes the fault suite's harness known
from harness import sandbox, suite
from lab import machine

try:
    from cases.base import Case, Place
    from cases.by_name import CASES
except ModuleNotFoundError as missing:
    sys.exit(f"run.py: {missing}; scripts/setup.sh front-door, then target/venv/bin/python run.py")

from front import certificates


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = suite.parser(__doc__)
    parser.add_argument("--binary", default="target/debug/meridian")
    parser.add_argument("--case", default="", help=f"comma-separated, of: {', '.join(CASES)}")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    options.case = suite.chosen(parser, "case", options.case, CASES, short=False)
    if not Path(options.binary).exists():
        parser.error(f"there is no program {options.binary!r}")
    return options


def everything(options: argparse.Namespace, folder: Path) -> suite.Record:
    """All cases that are wanted, one after another."""
    authority = certificates.authority(folder / "authority")
    record = suite.Record(
        "front-door",
        ["tests/front_door/run.py", *sys.argv[1:]],
        options.json,
        meridian=machine.first_line([options.binary, "version"], r"meridian (.*)"),
    )
    for name in options.case:
        own = folder / name
        own.mkdir()
        own.chmod(0o755)
        place = Place(options.binary, own, suite.cpus(), authority)
        record.note(row(CASES[name](), place), shown)
    return record


def row(case: Case, place: Place) -> dict:
    """What came of one case. A program that is missing is an error: setup.sh installs them all."""
    found = {"case": case.name, "title": case.title, "version": "", "not_measured": None}
    begun = time.monotonic()
    try:
        if reason := case.lacks():
            raise RuntimeError(reason)
        found["version"] = case.version()
        found["checks"] = [check.record(common=False) for check in case.run(place)]
    except (RuntimeError, OSError, subprocess.SubprocessError) as problem:
        found["error"] = f"{type(problem).__name__}: {problem}"
    finally:
        place.close()
    seconds = round(time.monotonic() - begun, 1)
    return found | {"figures": case.figures, "seconds": seconds}


def shown(row: dict) -> str:
    """One row for the terminal."""
    lines = [f"{row['case']} {row['version']}, {row['seconds']} s"]
    if "error" in row:
        lines.append(f"    failed: {row['error']}")
    lines += [f"    {check['text']}" for check in row.get("checks", []) if check["kept"]]
    for name, value in row["figures"].items():
        many = isinstance(value, list) and value and isinstance(value[0], dict)
        lines += [f"    {name}: {str(each)[:1000]}" for each in (value if many else [value])]
    return "\n".join(lines)


def main() -> int:
    options = parsed(sys.argv[1:])
    sandbox.enter()
    if reason := sandbox.lacks("sandbox"):
        print(f"run.py: {reason}", file=sys.stderr)
        return 2
    return suite.lived("front-door", lambda folder: everything(options, folder))


if __name__ == "__main__":
    sys.exit(main())
