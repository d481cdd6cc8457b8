"""The tables, as markdown. A function gives nothing where there are no figures."""

from reporting import sections
from reporting.comparison import CPU_MODES, TARGETS, WHAT, Row, all_rows, row
from reporting.results import Results, is_meridian, main_meridian

SHARE_OF_OTHERS = 0.1  # of the proxy's CPU: more than that disturbs a figure


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, thousands apart; a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(digits - max(whole, 1), 0)}f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    return sections.lines(head, rows)


def machine(results: Results) -> str:
    rows = []
    for run in [*results.runs, *([results.soak] if results.soak else [])]:
        host = run["machine"]
        programs = {**run["programs"], **run["tools"]}
        modes = ", ".join(mode for mode, owner in results.run_of.items() if owner is run) or "soak"
        rows.append(
            [
                modes,
                run["date"][:10],
                f"{host['cpu']}, {host['cpus']} CPUs{', virtual' if host['hypervisor'] else ''}",
                host["kernel"],
                "; ".join(
                    f"{name} {version or 'not installed'}" for name, version in programs.items()
                ),
                f"`{' '.join(run['command'])}`",
            ]
        )
    return table(["figures", "date", "processor", "kernel", "versions", "command"], rows)


def spread(found: Row | None) -> str:
    if found is None or found.ratio is None:
        return "–"
    low, high = found.spread or (found.ratio, found.ratio)
    quickest = f"; quickest {found.quickest:.2f}" if found.quickest else ""
    return f"{found.ratio:.2f} ({low:.2f} to {high:.2f}{quickest})"


def cpu(results: Results) -> str:
    names = results.proxies(*CPU_MODES)
    builds = [name for name in names if is_meridian(name)][1:]
    rows = []
    for mode in CPU_MODES:
        values = [results.median(mode, name, "cpu_us") for name in names]
        if not any(values):
            continue
        found = row(results, mode, "cpu_us", WHAT[mode], "µs", TARGETS.get(mode))
        target = found.target if found else TARGETS.get(mode)
        bad = sum(results.total(mode, name, "bad") for name in names)
        rows.append(
            [
                f"{WHAT[mode]} (`{mode}`)",
                *map(number, values),
                found.against or "–" if found else "–",
                spread(found),
                *(
                    spread(row(results, mode, "cpu_us", WHAT[mode], "µs", build=build))
                    for build in builds
                ),
                f"{target.ratio:.2f}" if target else "–",
                number(bad),
            ]
        )
    return table(
        [
            "µs per request",
            *names,
            "best peer",
            "ratio (of the rounds)",
            *(f"that of {build}" for build in builds),
            "target",
            "failed requests",
        ],
        rows,
    )


def latency(results: Results) -> str:
    keys = ["reached_rps", "p50_us", "p99_us", "p999_us", "cpu_us"]
    rows = [
        [
            name,
            *(number(results.median("rate", name, key)) for key in keys),
            number(results.total("rate", name, "failed")),
        ]
        for name in results.proxies("rate")
    ]
    return table(
        ["", "reached requests/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs per request", "failed"],
        rows,
    )


def log(results: Results) -> str:
    rows = []
    for name in results.proxies("log"):
        off = results.median("log", name, "cpu_us", "off")
        least_off = results.least("log", name, "cpu_us", "off")
        for kind in results.variants("log", name):
            if kind == "off":
                continue
            least = results.least("log", name, "cpu_us", kind)
            quickest = least - least_off if least and least_off else None
            rows.append(
                [
                    f"{name}, {kind}",
                    number(off),
                    number(results.median("log", name, "cpu_us", kind)),
                    number(results.difference("log", name, "cpu_us", kind, "off")),
                    number(quickest),
                    number(results.median("log", name, "bytes_per_line", kind)),
                    number(results.median("log", name, "lines_per_request", kind)),
                ]
            )
    return table(
        [
            "µs per request",
            "off",
            "on",
            "on minus off",
            "of the quickest rounds",
            "bytes per line",
            "lines per request",
        ],
        rows,
    )


def memory(results: Results) -> str:
    rows = []
    for name in results.proxies("idle", "idle100k"):

        def figure(key: str, name: str = name) -> str:
            return number(results.median("idle100k", name, key))

        rows.append(
            [
                name,
                number(results.median("idle", name, "kib_per_connection")),
                figure("kib_per_connection"),
                figure("held"),
                figure("open_at_end"),
                figure("p50_us"),
                figure("p99_us"),
                number(results.total("idle100k", name, "failed"))
                if results.median("idle100k", name, "held")
                else "–",
            ]
        )
    text = table(
        [
            "",
            "KiB per connection, 2,000",
            "KiB per connection, many",
            "held",
            "still open",
            "p50 µs",
            "p99 µs",
            "failed",
        ],
        rows,
    )
    limit = next(
        (
            results.median("idle100k", name, "file_limit")
            for name in results.proxies("idle100k")
            if results.median("idle100k", name, "file_limit")
        ),
        None,
    )
    if limit:
        text += f"\n\nOpen files per process were limited to {number(limit)} where it was highest."
    return text


def scale(results: Results) -> str:
    meridian = main_meridian(results, "scale")
    if not meridian:
        return ""
    curves: dict[str, list[str]] = {}
    for variant in results.variants("scale", meridian):
        curves.setdefault(variant.split("=")[0], []).append(variant)
    parts = []
    for curve, variants in curves.items():
        shown = [number(int(variant.split("=")[1])) for variant in variants]
        names = [name for name in results.proxies("scale") if results.variants("scale", name)]
        if curve != "connections":
            names = [meridian]
        rows = [
            [
                what if len(names) == 1 else f"{what}, {name}",
                *(number(results.median("scale", name, key, variant)) for variant in variants),
            ]
            for what, key in (
                ("CPU µs per request", "cpu_us"),
                ("memory MiB", "rss_mib"),
                ("requests/s", "rps"),
            )
            for name in names
        ]
        parts.append(table([curve, *shown], rows))
    return "\n\n".join(parts)


def reload(results: Results) -> str:
    rows = []
    for name in results.proxies("reload"):
        for variant in results.variants("reload", name):

            def figure(key: str, name: str = name, variant: str = variant) -> str:
                return number(results.median("reload", name, key, variant))

            rows.append(
                [
                    name,
                    figure("reload_ms"),
                    figure("reload_ms_max"),
                    figure("quiet_p99_us"),
                    figure("p99_us"),
                    figure("reloads"),
                    figure("requests"),
                    number(results.total("reload", name, "failed", variant)),
                ]
            )
    return table(
        [
            "",
            "ms per reload",
            "slowest ms",
            "p99 µs without",
            "p99 µs with",
            "reloads a round",
            "requests a round",
            "failed in all rounds",
        ],
        rows,
    )


def workers(results: Results) -> str:
    rows = []
    for name in results.proxies("workers"):

        def figure(key: str, variant: str, name: str = name) -> float | None:
            return results.median("workers", name, key, variant)

        one, two = figure("rps", "1 on 2 CPUs"), figure("rps", "2 on 2 CPUs")
        rows.append(
            [
                name,
                *(
                    number(figure("cpu_us", variant))
                    for variant in ("1 on 1 CPU", "2 on 1 CPU", "1 on 2 CPUs", "2 on 2 CPUs")
                ),
                number(one),
                number(two),
                f"{two / one:.2f}" if one and two else "–",
            ]
        )
    text = table(
        [
            "",
            "µs, 1 worker on 1 CPU",
            "µs, 2 on 1",
            "µs, 1 on 2",
            "µs, 2 on 2",
            "requests/s, 1 on 2",
            "requests/s, 2 on 2",
            "ratio",
        ],
        rows,
    )
    shared = any(
        results.total("workers", name, "load_shares_cpus", "2 on 2 CPUs")
        for name in results.proxies("workers")
    )
    if shared:
        text += (
            "\n\nThis machine has too few CPUs for the last three columns: load generator and "
            "backend ran on the second of the proxy's two CPUs and took their share of it."
        )
    return text


def soak(results: Results) -> str:
    record = results.soak
    if not record:
        return ""
    verdict = record["verdict"]
    rows = [
        [
            key,
            number(entry.get("second_quarter")),
            number(entry.get("last_quarter")),
            number(entry.get("allowed")),
            "yes" if entry["flat"] else "**no**",
        ]
        for key, entry in verdict.get("quantities", {}).items()
    ]
    causes = (
        "; ".join(
            f"{cause} {number(count)}" for cause, count in record["failed_idempotent"].items()
        )
        or "none"
    )
    answered = sum(record["answered"].values())
    rss = verdict.get("quantities", {}).get("rss_kib", {}).get("kib_per_hour")
    head = (
        f"{number(record['minutes'])} minutes, {number(answered)} requests answered, "
        f"region faults: {len(record['faults'])}, reloads: {sum(record['reloads'].values())}. "
        f"Failed idempotent requests by cause: {causes}. "
        f"Memory grew by {number(rss)} KiB an hour. "
        f"Verdict: {'flat' if verdict['flat'] else '**not flat** ' + verdict.get('reason', '')}."
    )
    return head + "\n\n" + table(["", "second quarter", "last quarter", "allowed", "flat"], rows)


def shortfalls(results: Results) -> list[str]:
    """Where the measurement itself did not get what it asked for."""
    lines = []
    for name in results.proxies("idle100k"):
        held, wanted = (results.median("idle100k", name, key) for key in ("held", "wanted"))
        failed = results.total("idle100k", name, "failed")
        if held is not None and (held < wanted or failed):
            lines.append(
                f"- **idle connections held** ({name}): {number(held)} of {number(wanted)}; "
                f"requests failed: {number(failed)}."
            )
    for name in results.proxies("rate"):
        reached, wanted = (
            results.median("rate", name, key) for key in ("reached_rps", "wanted_rps")
        )
        if reached is not None and reached < 0.99 * wanted:
            lines.append(
                f"- **fixed rate** ({name}): {number(reached)} of {number(wanted)} requests/s "
                "reached: its percentiles are too low."
            )
    others = results.largest("others")
    if others > SHARE_OF_OTHERS:
        lines.append(
            f"- **disturbed**: in one measurement others took {others:.0%} of the proxy's CPU."
        )
    return lines


def worse(results: Results) -> str:
    rows = [found for found in all_rows(results) if found.is_worse]
    lines = []
    for found in rows:
        said = f"- **{found.name}**: {number(found.own)} {found.unit}".rstrip()
        if found.ratio is not None:
            said += f", {found.ratio:.2f} of {found.against} ({number(found.other)} {found.unit})"
        elif found.other is not None:
            said += f"; {found.against}: {number(found.other)} {found.unit}"
        if found.misses_target:
            limit = (
                f"at most {number(found.target.value)} {found.unit}".rstrip()
                if found.target.value is not None
                else f"at most {found.target.ratio:.2f}"
            )
            said += f"; misses its target, {limit}"
        lines.append(said + ".")
    lines += shortfalls(results)
    for seen in results.refusals():
        if is_meridian(seen["proxy"]):
            lines.append(
                f"- **{seen['mode']}** ({seen['proxy']}): not supported: {seen['reason']}."
            )
    if results.soak and not results.soak["verdict"]["flat"]:
        lines.append("- **soak**: not flat.")
    lines += [
        f"- {seen['mode']}, {seen['variant']}, {seen['proxy']}, round {seen['round']}: not "
        f"measured: {seen['figures']['error'].splitlines()[0][:120]}"
        for seen in results.errors()
    ]
    return "\n".join(lines) or "Nothing in these figures."
