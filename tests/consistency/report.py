#!/usr/bin/env python3
"""Writes the tables of docs/consistency.md from the figures of run.py.

    report.py docs/consistency.json [--page docs/consistency.md]

Sections of the page that are marked `<!-- begin:NAME -->` to `<!-- end:NAME -->` are replaced.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import topology  # first: it makes the benchmarks' folder known
from reporting import sections
from reporting.sections import lines

INVARIANTS = {
    "1": "In one epoch, at most one region executes writes",
    "2": "The epoch never decreases, at a backend or in a worker",
    "3": "After a promotion is acknowledged nothing reaches the old primary as a write",
    "4": "An acknowledged write is applied exactly once, another at most once",
    "5": "Read-your-writes and monotonic reads for each session",
    "6": "No read is staler than its bound",
    "7": "With the primary unknown or contested nothing is written",
}


def part(record: dict, name: str) -> dict | None:
    return next((row for row in record["rows"] if row["part"] == name), None)


def measured(record: dict, name: str, text: Callable[[dict], str]) -> str:
    """The text about a part's figures, or why there are none."""
    row = part(record, name)
    if row is None:
        return ""
    if "error" in row or row["not_measured"]:
        return f"Not measured: {row.get('error') or row['not_measured']}"
    return text(row["figures"])


def where(record: dict) -> str:
    machine = record["machine"]
    return (
        f"{record['date']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_mib']} MiB, {machine['kernel']}, load average "
        f"{machine['load_average']:.2f} at the start; PostgreSQL {record['postgresql']}; the "
        f"{record['plan']} suite, seed {record['seed']}.\n\n"
        f"    {' '.join(record['command'])}"
    )


def history(record: dict) -> str:
    unfenced = (part(record, "unfenced") or {}).get("figures", {}).get("violations", {})

    def text(seen: dict) -> str:
        rows = [
            [number, what, seen["violations"][number], unfenced.get(number, "-")]
            for number, what in INVARIANTS.items()
        ]
        return (
            f"{seen['operations']:,} requests ({seen['writes']:,} writes, {seen['reads']:,} reads) "
            f"in {seen['seconds']:.0f} s; {seen['promotions']} promotions; "
            f"{sum(seen['nemeses'].values())} nemeses. {seen['failed_in_calm']} requests failed "
            f"while nothing was wrong. {seen['seen_early']} reads at the primary missed what a "
            "replica had shown before it was acknowledged.\n\n"
            + lines(["", "invariant", "violations", "with fencing switched off"], rows)
        )

    return measured(record, "history", text)


def struck(record: dict) -> str:
    def text(seen: dict) -> str:
        nemeses = ", ".join(f"`{name}` {count}" for name, count in seen["nemeses"].items())
        failed = sorted(seen["failed"].items(), key=lambda each: -each[1])
        rows = [[f"`{what}`", count] for what, count in failed[:20]]
        return f"{nemeses}.\n\n" + lines(["what failed meanwhile, and who said so", "times"], rows)

    return measured(record, "history", text)


def switchover(record: dict) -> str:
    def text(seen: dict) -> str:
        rows = [
            ["switchovers", seen["moved"]],
            ["writes", seen["writes"]],
            ["failed writes", seen["failed_writes"]],
            ["failed reads", seen["failed_reads"]],
            ["violations of the invariants", len(seen["violations"])],
            ["pauses without an answered write", listed(seen["pauses_ms"], "ms")],
            ["of which the databases took", listed(seen["database_ms"], "ms")],
            ["the slowest write", f"{seen['longest_write_ms']} ms"],
        ]
        return lines(["", ""], rows)

    return measured(record, "switchover", text)


def of_two(record: dict) -> str:
    def text(seen: dict) -> str:
        edges = [name for name in seen if name.startswith("edge-")]
        rows = [
            ["writes", *(seen[edge]["writes"] for edge in edges)],
            ["failed requests", *(seen[edge]["all_failed"] for edge in edges)],
            ["refused with 421, and sent again", *(seen[edge]["refused_421"] for edge in edges)],
            ["the slowest write", *(f"{seen[edge]['longest_write_ms']} ms" for edge in edges)],
            [
                "pauses without an answered write",
                *(listed(seen[edge]["pauses_ms"], "ms") for edge in edges),
            ],
        ]
        head = ["", "the edge that was asked", "the other edge"]
        said = f"{seen['moved']} switchovers, {len(seen['violations'])} violations of the invariants."
        return f"{said}\n\n{lines(head, rows)}"

    return measured(record, "switchover-of-two", text)


def contested(record: dict) -> str:
    def text(seen: dict) -> str:
        refused = ", ".join(f"{name} {n}" for name, n in seen["refused_contested"].items())
        rows = [
            ["writes executed while contested", seen["executed_while_contested"]],
            ["requests refused as contested", refused],
            ["the slowest refusal", f"{seen['longest_refusal_ms']} ms"],
            ["writes acknowledged before and after", seen["acknowledged"]],
            ["violations of the invariants", len(seen["violations"])],
        ]
        return lines(["", ""], rows)

    return measured(record, "contested", text)


def listed(values: list, unit: str) -> str:
    return ", ".join("-" if value is None else f"{value:g}" for value in values) + f" {unit}"


def distribution(record: dict) -> str:
    names = {"tokens": "session tokens", "pinned": "the primary for 2 s after a write"}

    def text(seen: dict) -> str:
        rows = [
            [
                title,
                f"{seen[name]['at_replicas']:.1%}",
                f"{seen[name]['mean_ms']} ms",
                f"{seen[name]['median_ms']} ms",
                f"{seen[name]['p99_ms']} ms",
                seen[name]["reads"],
            ]
            for name, title in names.items()
        ]
        return lines(["", "at replicas", "mean", "median", "p99", "reads"], rows)

    return measured(record, "distribution", text)


def elected(record: dict) -> str:
    def text(seen: dict) -> str:
        rows = [
            [
                "kill -9 of the leader's region to the promotion",
                listed(seen["leader_lost_to_promotion_s"], "s"),
            ],
            [
                "promotion to the first accepted write",
                listed(seen["promotion_to_first_write_ms"], "ms"),
            ],
            ["requests", seen["operations"]],
            ["violations of the invariants", len(seen["violations"])],
        ]
        return f"Patroni {seen['patroni']}.\n\n" + lines(["", ""], rows)

    return measured(record, "patroni", text)


def missed(record: dict) -> str:
    found = []
    for row in record["rows"]:
        if "error" in row:
            found.append(f"- {row['title']}: {row['error']}")
        if row["not_measured"]:
            found.append(f"- {row['title']}: not measured: {row['not_measured']}")
        for check in row.get("checks", []):
            if not check["kept"]:
                found.append(f"- {row['title']}: {check['text']}")
    return "\n".join(found) or "Nothing: every bound is kept."


TABLES: dict[str, Callable[[dict], str]] = {
    "where": where,
    "missed": missed,
    "history": history,
    "struck": struck,
    "switchover": switchover,
    "switchover-of-two": of_two,
    "contested": contested,
    "distribution": distribution,
    "patroni": elected,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/consistency.md"))
    options = parser.parse_args()
    record = json.loads(options.json.read_text())
    texts = {name: partial(text, record) for name, text in TABLES.items()}
    try:
        page = sections.rewritten(options.page, texts)
    except ValueError as problem:
        parser.error(str(problem))
    options.page.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
