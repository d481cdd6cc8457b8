"""Each figure against the best peer of the same run, and against its target."""

import statistics
from dataclasses import dataclass

from reporting.results import Results, is_meridian, is_peer, main_meridian

WHAT = {
    "h1": "HTTP/1.1",
    "browser": "HTTP/1.1, 12 fields",
    "h2": "HTTP/2 without TLS",
    "tls1": "HTTP/1.1, TLS 1.3",
    "tls2": "HTTP/2, TLS 1.3",
    "big": "1 MiB answers",
    "post": "4 KiB request bodies",
    "shake": "TLS handshake for every request",
    "idle": "memory of an idle connection",
}
SMALLEST = 0.1  # of what a ratio is taken to
CPU_MODES = [mode for mode in WHAT if mode != "idle"]


@dataclass(frozen=True)
class Target:
    """At most `ratio` of the best peer, and at most `value` in the figure's own unit."""

    ratio: float | None = None
    value: float | None = None


TARGETS = {
    "h1": Target(ratio=0.90),
    "h2": Target(ratio=1.00),
    "tls1": Target(ratio=0.95),
    "tls2": Target(ratio=1.00),
    "big": Target(ratio=1.00),
    "post": Target(ratio=0.95),
    "shake": Target(ratio=1.00),
    "idle": Target(value=2.0),
    "reload": Target(value=100.0),
    "reload failed": Target(value=0),
    "reload p99": Target(ratio=2.0),
}


@dataclass(frozen=True)
class Row:
    """One figure of Meridian. Smaller is better in all of them."""

    name: str
    unit: str
    own: float
    against: str | None = None  # the best peer, or what else it is compared with
    other: float | None = None
    spread: tuple[float, float] | None = None
    quickest: float | None = None  # the ratio of the quickest rounds of both
    target: Target | None = None
    peer: bool = True  # False: compared with itself, where above 1 is expected

    @property
    def ratio(self) -> float | None:
        """None against next to nothing: it would be a large number without a meaning."""
        return self.own / self.other if self.other and self.other >= SMALLEST else None

    @property
    def misses_target(self) -> bool:
        if self.target is None:
            return False
        over_ratio = (
            self.target.ratio is not None
            and self.ratio is not None
            and self.ratio > self.target.ratio
        )
        return over_ratio or (self.target.value is not None and self.own > self.target.value)

    @property
    def is_worse(self) -> bool:
        return self.misses_target or (
            self.peer and self.other is not None and self.own > self.other
        )


def best_peer(results: Results, mode: str, key: str, variant: str = "default") -> str | None:
    """In a run without peers, the best of the other builds of Meridian."""
    names = results.proxies(mode)
    others = [name for name in names if is_peer(name)]
    others = others or [name for name in names if is_meridian(name)][1:]
    medians = {name: results.median(mode, name, key, variant) for name in others}
    known = {name: value for name, value in medians.items() if value is not None}
    return min(known, key=known.get) if known else None


def row(
    results: Results,
    mode: str,
    key: str,
    name: str,
    unit: str,
    target: Target | None = None,
    build: str | None = None,
) -> Row | None:
    """`build`: of Meridian; None: the first that was named."""
    meridian = build or main_meridian(results, mode)
    own = results.median(mode, meridian, key) if meridian else None
    if own is None:
        return None
    peer = best_peer(results, mode, key)
    if peer is None:
        return Row(name, unit, own, target=target)
    if is_meridian(peer) and target and target.ratio:
        target = None  # it is meant against peers
    mine, theirs = results.rounds(mode, meridian, key), results.rounds(mode, peer, key)
    by_round = [mine[n] / theirs[n] for n in mine if theirs.get(n)]
    spread = (min(by_round), max(by_round)) if by_round else None
    least = least_of_peers(results, mode, key)
    quickest = min(mine.values()) / least if least else None
    other = statistics.median(theirs.values())
    return Row(name, unit, own, peer, other, spread, quickest, target)


def least_of_peers(results: Results, mode: str, key: str) -> float | None:
    """The best round of the best peer: what others do meanwhile can only add to a figure."""
    names = [name for name in results.proxies(mode) if is_peer(name)]
    least = [results.least(mode, name, key) for name in names]
    return min((value for value in least if value is not None), default=None)


def log_row(results: Results, kind: str, peer_kinds: tuple[str, ...] = ()) -> Row | None:
    """What this log adds to a request, against the cheapest log of a peer, or its cheapest of these kinds."""
    meridian = main_meridian(results, "log")
    own = results.difference("log", meridian, "cpu_us", kind, "off") if meridian else None
    if own is None:
        return None
    peers = {
        f"{name} ({variant})": results.difference("log", name, "cpu_us", variant, "off")
        for name in results.proxies("log")
        if is_peer(name)
        for variant in results.variants("log", name)
        if variant != "off" and (not peer_kinds or variant in peer_kinds)
    }
    known = {name: value for name, value in peers.items() if value is not None}
    best = min(known, key=known.get) if known else None
    name = f"access log ({kind})" if peer_kinds else f"access log ({kind}), peers in any format"
    return Row(name, "µs", own, best, known[best] if best else None)


def reload_rows(results: Results) -> list[Row]:
    meridian = main_meridian(results, "reload")
    if not meridian:
        return []
    rows = []
    for variant in results.variants("reload", meridian):
        took, quiet, loud = (
            results.median("reload", meridian, key, variant)
            for key in ("reload_ms", "quiet_p99_us", "p99_us")
        )
        if took is not None:
            rows.append(Row("reload of 10,000 routes", "ms", took, target=TARGETS["reload"]))
        if quiet and loud is not None:
            rows.append(
                Row(
                    "p99 during reloads",
                    "µs",
                    loud,
                    "p99 without reloads",
                    quiet,
                    target=TARGETS["reload p99"],
                    peer=False,
                )
            )
        rows.append(
            Row(
                "requests failed during reloads",
                "",
                results.total("reload", meridian, "failed", variant),
                target=TARGETS["reload failed"],
            )
        )
    return rows


def scale_rows(results: Results) -> list[Row]:
    """Where a peer is measured as well: what many connections cost."""
    meridian = main_meridian(results, "scale")
    rows = []
    for variant in results.variants("scale", meridian) if meridian else []:
        own, peer = (
            results.median("scale", meridian, "cpu_us", variant),
            best_peer(results, "scale", "cpu_us", variant),
        )
        if own is not None and peer and not is_meridian(peer):
            other = results.median("scale", peer, "cpu_us", variant)
            rows.append(Row(f"CPU at {variant.replace('=', ' ')}", "µs", own, peer, other))
    return rows


def cpu_rows(results: Results) -> list[Row]:
    rows = [row(results, mode, "cpu_us", WHAT[mode], "µs", TARGETS.get(mode)) for mode in CPU_MODES]
    return [found for found in rows if found]


def all_rows(results: Results) -> list[Row]:
    rows: list[Row | None] = [*cpu_rows(results)]
    rows.append(row(results, "idle", "kib_per_connection", WHAT["idle"], "KiB", TARGETS["idle"]))
    for key, name in (("p50_us", "p50 at a fixed rate"), ("p99_us", "p99 at a fixed rate")):
        rows.append(row(results, "rate", key, name, "µs"))
    rows += [
        log_row(results, "json", ("json",)),
        log_row(results, "json"),
        log_row(results, "combined", ("combined", "stdout", "udp")),
    ]
    rows.append(
        row(
            results,
            "idle100k",
            "kib_per_connection",
            "memory, many idle connections",
            "KiB",
            TARGETS["idle"],
        )
    )
    rows.append(row(results, "idle100k", "p99_us", "p99 beside many idle connections", "µs"))
    return [found for found in rows if found] + scale_rows(results) + reload_rows(results)
