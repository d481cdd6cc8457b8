"""What the suites share: the record of a run, its rows as they come, and the life of the run.

A row has checks and figures, or an error, or says why it was not measured; a proxy beside Meridian
is measured, not judged.
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
from collections.abc import Callable
from pathlib import Path

from lab import machine

FORMAT = 1


def parser(text: str) -> argparse.ArgumentParser:
    """One whose help is the text as it stands."""
    return argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def chosen(
    options: argparse.ArgumentParser, what: str, wanted: str, known: dict, short: bool
) -> list[str]:
    """The names that are wanted of those that are known, comma-separated; none: all of this length."""
    names = wanted.split(",") if wanted else [n for n in known if known[n].short or not short]
    if unknown := set(names) - set(known):
        options.error(f"unknown {what}: {', '.join(sorted(unknown))}")
    return names


def cpus() -> str:
    """Those that this process may use, as taskset takes them."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


class Record:
    """What a run found; where a file is wanted, it is written after every row."""

    def __init__(self, kind: str, command: list[str], file: Path | None, **about) -> None:
        self.file = file
        self.rows: list[dict] = []
        self.all = {
            "format": FORMAT,
            "kind": kind,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": machine.without_paths(command),
            **about,
            "machine": machine.describe(machine.raise_file_limit()),
            "rows": self.rows,
        }

    def note(self, row: dict, shown: Callable[[dict], str]) -> None:
        self.rows.append(row)
        print(shown(row), flush=True)
        for check in row.get("checks", []):
            if not check["kept"]:
                print(f"    {'MISSED' if judged(row) else '      '} {check['text']}", flush=True)
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.all, indent=1) + "\n")

    def missed(self) -> int:
        """Bounds that Meridian missed, and rows of it that failed."""
        return sum(
            sum(not check["kept"] for check in row.get("checks", [])) + ("error" in row)
            for row in filter(judged, self.rows)
        )


def judged(row: dict) -> bool:
    return row.get("proxy", "meridian") == "meridian"


def lived(name: str, run: Callable[[Path], Record]) -> int:
    """Runs in a folder that is gone afterwards; the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix=f"meridian-{name}-"))
    folder.chmod(0o755)
    begun = time.monotonic()
    try:
        record = run(folder)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    skipped = sum(bool(row["not_measured"]) for row in record.rows)
    missed = record.missed()
    print(
        f"{len(record.rows)} rows in {time.monotonic() - begun:.0f} s, "
        f"{skipped} not measured, {missed} bounds missed"
    )
    return 1 if missed else 0
