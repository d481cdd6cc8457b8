"""rate: latency at 5,000 requests a second, far below what any of the proxies can do."""

from lab.load import Steady
from modes.base import Bench, Case
from proxies import Proxy, Running, Setup

RPS = 5000


def cases(mode: str, _proxy: Proxy, _bench: Bench) -> list[Case]:
    return [Case(mode, "default", Setup(), measure, shares_process=True)]


def measure(bench: Bench, running: Running) -> dict:
    before = running.child.cpu_seconds()
    seen = Steady(
        running.site.url("h1"), bench.cpus.load, RPS, bench.seconds, running.site.folder
    ).finish()
    used = running.child.cpu_seconds() - before
    return {**seen.figures(), "cpu_us": used / seen.requests * 1e6}
