"""workers: what a second worker thread costs, and what it brings.

On one CPU the same load is served by one worker and by two: the difference is what they cost each
other. On a pair of CPUs two workers show how throughput grows; where the machine has fewer than
four CPUs, load generator and backend take their share of that pair, and the figure says so.
"""

from lab.load import wrk
from modes.base import Bench, Case, cost
from proxies import Proxy, Running, Setup


def cases(mode: str, _proxy: Proxy, _bench: Bench) -> list[Case]:
    return [
        Case(mode, "1 on 1 CPU", Setup(workers=1), measure("load", False)),
        Case(mode, "2 on 1 CPU", Setup(workers=2), measure("load", False)),
        Case(mode, "1 on 2 CPUs", Setup(workers=1), measure("pair_load", True), proxy_cpus="pair"),
        Case(mode, "2 on 2 CPUs", Setup(workers=2), measure("pair_load", True), proxy_cpus="pair"),
    ]


def measure(load_cpus: str, on_pair: bool):
    def measured(bench: Bench, running: Running) -> dict:
        cpus, url = getattr(bench.cpus, load_cpus), running.site.url("h1")
        figures = cost(running, bench.seconds, lambda s: wrk(url, cpus, 64, int(s)))
        return {**figures, "load_shares_cpus": on_pair and bench.cpus.pair_is_shared}

    return measured
