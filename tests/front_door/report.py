#!/usr/bin/env python3
"""Writes the tables of docs/front-door.md from the figures of run.py and of the attack pack.

    report.py docs/front-door.json [--attacks FILE] [--page docs/front-door.md]

The attacks' figures are taken into the JSON file, so that the page can be written anew from it.
Sections of the page that are marked `<!-- begin:NAME -->` to `<!-- end:NAME -->` are replaced.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import front  # noqa: F401  first: it makes the benchmarks' folder known
from cases.tls import EXCUSED
from reporting import sections
from reporting.sections import lines


def where(record: dict) -> str:
    machine = record["machine"]
    seconds = sum(row["seconds"] for row in record["rows"])
    return (
        f"{record['date']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_mib']} MiB, {machine['kernel']}, load average "
        f"{machine['load_average']:.2f} at the start; meridian {record['meridian']}; "
        f"{seconds:.0f} s without the attack pack. {record.get('note', '')}"
    ).strip()


def verdict(row: dict) -> str:
    if "error" in row:
        return f"**not measured**: {row['error']}"
    missed = [check["text"] for check in row.get("checks", []) if not check["kept"]]
    return f"**missed**: {'; '.join(missed)}" if missed else "kept"


def table(record: dict) -> str:
    """One line for every tool."""
    return lines(
        ["what", "version", "seconds", "figures and bounds", "bounds"],
        [
            [
                row["title"],
                row["version"],
                row["seconds"],
                "; ".join(
                    each["text"] for each in row.get("checks", []) if row["case"] != "slowhttptest"
                )
                or "see below",
                verdict(row),
            ]
            for row in record["rows"]
        ],
    )


def figures(record: dict, case: str) -> dict:
    return next((row["figures"] for row in record["rows"] if row["case"] == case), {})


def excused(record: dict) -> str:
    """Everything that may be, and whether it was this time."""
    seen = "; ".join(figures(record, "testssl.sh").get("excused", []))
    return "\n".join(
        f"- {severity} of `{identity}`, by testssl.sh: {reason} "
        f"({'it was said' if identity in seen else 'not said'} in this run)"
        for (severity, identity), reason in EXCUSED.items()
    )


def slow(record: dict) -> str:
    head = ["mode", "at once", "all ended after", "bystander's errors"]
    head += ["p99 (quiet, past the edge)", "memory before", "at most more"]
    return lines(
        head,
        [
            [
                seen["mode"],
                f"{seen['peak']:.0f}",
                f"{seen['ended_after_s']} s",
                f"{seen['errors']} of {seen['requests']}",
                f"{seen['p99_ms']} ms ({seen['quiet_p99_ms']}, {seen['direct_p99_ms']})",
                f"{seen['rss_before_kib'] / 1024:.1f} MiB",
                f"{seen['grown_kib'] / 1024:.1f} MiB",
            ]
            for seen in figures(record, "slowhttptest").get("modes", [])
        ],
    )


def attacks(record: dict) -> str:
    head = ["attack", "bystander's errors", "p99 (quiet, at another edge)", "memory before, after"]
    return lines(
        [*head, "whole requests at the endpoint"],
        [
            [
                seen["attack"],
                f"{seen['errors']} of {seen['requests']}",
                f"{seen['p99_ms']} ms ({seen['quiet_p99_ms']}, {seen['elsewhere_p99_ms']})",
                f"{seen['rss_before_kib'] / 1024:.1f}, {seen['rss_after_kib'] / 1024:.1f} MiB",
                seen["at_the_endpoint"],
            ]
            for seen in sorted(record.get("attacks", []), key=lambda seen: seen["attack"])
        ],
    )


TABLES: dict[str, Callable[[dict], str]] = {
    "where": where,
    "table": table,
    "excused": excused,
    "slow": slow,
    "attacks": attacks,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("--attacks", type=Path, help="lines of JSON that the attack pack wrote")
    parser.add_argument("--page", type=Path, default=Path("docs/front-door.md"))
    options = parser.parse_args()
    record = json.loads(options.json.read_text())
    if options.attacks and options.attacks.exists():
        text = options.attacks.read_text()
        record["attacks"] = [json.loads(line) for line in text.splitlines()]
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    texts = {name: partial(text, record) for name, text in TABLES.items()}
    try:
        page = sections.rewritten(options.page, texts)
    except ValueError as problem:
        parser.error(str(problem))
    options.page.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
