"""reload: 10,000 routes, a steady load, and the configuration changed every second. Meridian only.

The same load first without reloads. The time of a reload is that of POST /api/v1/reload, which
answers when the new table is in force.
"""

import statistics
import time
from dataclasses import replace

from lab import client
from lab.load import Steady
from modes.base import Bench, Case
from proxies import Proxy, Running, Setup
from proxies.meridian import route_path

ROUTES = 10_000
RPS = 2000
EVERY_SECONDS = 1.0
MOST_RELOADS = 600


def cases(mode: str, proxy: Proxy, _bench: Bench) -> list[Case]:
    if not proxy.is_meridian:
        return []
    return [Case(mode, f"routes={ROUTES}", Setup(routes=ROUTES), measure)]


def measure(bench: Bench, running: Running) -> dict:
    quiet = steady(bench, running).finish()
    load = steady(bench, running)
    reloads = change_until_over(running, load)
    loud = load.finish()
    took = [seen["ms"] for seen in reloads if seen["changed"]]
    return {
        "quiet_p99_us": quiet.p99_us,
        "quiet_p50_us": quiet.p50_us,
        "quiet_failed": quiet.failed,
        "quiet_rps": quiet.reached_rps,
        "p99_us": loud.p99_us,
        "p50_us": loud.p50_us,
        "failed": loud.failed,
        "rps": loud.reached_rps,
        "requests": loud.requests,
        "reloads": len(took),
        "refused": [seen["error"] for seen in reloads if seen["error"]],
        "unchanged": sum(seen["status"] == 200 and not seen["changed"] for seen in reloads),
        "reload_ms": statistics.median(took) if took else None,
        "reload_ms_max": max(took, default=None),
        "all_reload_ms": took,
    }


def steady(bench: Bench, running: Running) -> Steady:
    urls = [running.site.url("h1", route_path(number)) for number in range(0, ROUTES - 1, 10)]
    return Steady(urls[0], bench.cpus.load, RPS, bench.seconds, running.site.folder, urls)


def change_until_over(running: Running, load: Steady) -> list[dict]:
    seen = []
    next_turn = time.monotonic() + EVERY_SECONDS
    for edition in range(1, MOST_RELOADS):
        running.proxy.write(running.site, replace(running.setup, edition=edition))
        seen.append(client.reload_edge(running.site.address("admin")))
        time.sleep(max(next_turn - time.monotonic(), 0))
        next_turn += EVERY_SECONDS
        if not load.is_running():
            break
    return seen
