#!/usr/bin/env python3
"""Writes the tables of docs/faults.md from the figures of run.py.

    report.py docs/faults.json [--page docs/faults.md]

Sections of the page that are marked `<!-- begin:NAME -->` to `<!-- end:NAME -->` are replaced.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import harness  # first: it makes the process lab of the benchmarks known
from reporting import sections
from reporting.sections import lines

OWN = "meridian"
RECOVERY_TOLERANCE_S = 0.05  # a smaller difference says nothing


def shown(value: float | None, unit: str = "") -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}{unit}" if abs(value) >= 1000 else f"{value:.3g}{unit}"


def own(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["proxy"] == OWN]


def is_measured(row: dict) -> bool:
    return "figures" in row


def why_not(row: dict) -> str:
    return row.get("error") or row["not_measured"] or "unknown"


def table(rows: list[dict]) -> str:
    """One line for every fault that struck Meridian."""
    head = ["fault", "failed GETs", "failed POSTs", "POSTs doubled", "out after", "recovery"]
    head += ["bystander p99 (quiet)", "bounds"]
    found = []
    for row in own(rows):
        if not is_measured(row):
            found.append([row["title"], *["-"] * 6, f"not measured: {why_not(row)}"])
            continue
        seen = row["figures"]
        missed = sum(not check["kept"] for check in row["checks"])
        found.append(
            [
                row["title"],
                f"{seen['failed_gets']} of {seen['gets']}",
                f"{seen['failed_posts']} of {seen['posts']}",
                str(seen["doubled_posts"]),
                shown(seen["ejection_s"], " s"),
                shown(seen["recovery_s"], " s"),
                f"{shown(seen['bystander_p99_ms'])} ms ({shown(seen['bystander_quiet_p99_ms'])})",
                f"**missed** {missed} of {len(row['checks'])}" if missed else "kept",
            ]
        )
    return lines(head, found)


def bound(check: dict) -> str:
    return check["text"] if check["kept"] else f"**{check['text']}**"


def bounds(rows: list[dict]) -> str:
    """What each fault was judged by, beyond what holds in all of them."""
    found = []
    for row in filter(is_measured, own(rows)):
        told = [check for check in row["checks"] if not (check["kept"] and check["common"])]
        found.append([row["title"], "; ".join(map(bound, told))])
    return lines(["fault", "figure and bound"], found)


def failed(row: dict) -> int:
    return row["figures"]["failed_gets"] + row["figures"]["failed_posts"]


def by_case(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """Measured rows of the cases that peers ran as well."""
    found: dict[str, dict[str, dict]] = {}
    for row in rows:
        if is_measured(row):
            found.setdefault(row["case"], {})[row["proxy"]] = row
    return {case: each for case, each in found.items() if set(each) - {OWN}}


def comparison(rows: list[dict]) -> str:
    """Failed requests and recovery of each proxy."""
    cases = by_case(rows)
    proxies = list(dict.fromkeys(proxy for each in cases.values() for proxy in each))
    found = []
    for each in cases.values():
        cells = [
            f"{failed(each[proxy])}, {shown(each[proxy]['figures']['recovery_s'], ' s')}"
            if proxy in each
            else "-"
            for proxy in proxies
        ]
        found.append([next(iter(each.values()))["title"], *cells])
    return lines(["fault", *proxies], found) if found else ""


def worse(rows: list[dict]) -> str:
    """Bounds that were missed, and what a peer did better."""
    found = []
    for row in own(rows):
        if "error" in row:
            found.append(f"- {row['title']}: could not be measured: {row['error']}")
        for check in row.get("checks", []):
            if not check["kept"]:
                found.append(f"- {row['title']}: {check['text']}")
    for each in by_case(rows).values():
        peers = {proxy: row for proxy, row in each.items() if proxy != OWN}
        if OWN not in each:
            continue
        found += [f"- {each[OWN]['title']}: {text}" for text in better(each[OWN], peers)]
    return "\n".join(found) or "Nothing: every bound is kept, and no peer is better in any row."


def better(row: dict, peers: dict[str, dict]) -> list[str]:
    found = []
    name = min(peers, key=lambda peer: failed(peers[peer]))
    if failed(row) > failed(peers[name]):
        found.append(f"{failed(row)} failed requests, {name} {failed(peers[name])}")
    times = {peer: row["figures"]["recovery_s"] for peer, row in peers.items()}
    name, mine = min(times, key=times.get), row["figures"]["recovery_s"]
    if mine > times[name] + RECOVERY_TOLERANCE_S:
        found.append(f"recovery {shown(mine, ' s')}, {name} {shown(times[name], ' s')}")
    times = {peer: row["figures"].get("arrival_p99_ms") for peer, row in peers.items()}
    known = {peer: value for peer, value in times.items() if value is not None}
    mine = row["figures"].get("arrival_p99_ms")
    if known and mine is not None and mine > min(known.values()):
        name = min(known, key=known.get)
        text = "p99 of the bystander while the crowd arrives"
        found.append(f"{text} {shown(mine, ' ms')}, {name} {shown(known[name], ' ms')}")
    return found


def where(record: dict) -> str:
    machine = record["machine"]
    programs = ", ".join(f"{name} {version}" for name, version in record["programs"].items())
    seconds = sum(row.get("seconds", 0) for row in record["rows"])
    return (
        f"{record['date']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_mib']} MiB, {machine['kernel']}, load average "
        f"{machine['load_average']:.2f} at the start; {programs}; the {record['plan']} suite, "
        f"{seconds / 60:.0f} minutes."
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/faults.md"))
    options = parser.parse_args()
    record = json.loads(options.json.read_text())
    tables: dict[str, Callable[[], str]] = {
        "where": lambda: where(record),
        "table": lambda: table(record["rows"]),
        "comparison": lambda: comparison(record["rows"]),
        "worse": lambda: worse(record["rows"]),
        "bounds": lambda: bounds(record["rows"]),
    }
    try:
        page = sections.rewritten(options.page, tables)
    except ValueError as problem:
        parser.error(str(problem))
    options.page.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
