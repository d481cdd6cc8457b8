"""idle100k: 100,000 idle keep-alive connections, or as many as the limit of open files allows,
and how requests are answered meanwhile.
"""

import time

from lab.crowd import Crowd
from lab.load import percentile
from modes.base import Bench, Case
from proxies import Proxy, Running, Setup

WANTED = 100_000
KEPT_FILES = 500  # of the proxy's descriptors: listeners, backends, logs
REQUESTS = 2000


def cases(mode: str, _proxy: Proxy, bench: Bench) -> list[Case]:
    return [Case(mode, "default", Setup(max_connections=room(bench.file_limit)), measure)]


def room(file_limit: int) -> int:
    return min(WANTED + KEPT_FILES, file_limit - KEPT_FILES)


def measure(bench: Bench, running: Running) -> dict:
    address, child = running.site.address("h1"), running.child
    wanted = min(WANTED, room(bench.file_limit) - KEPT_FILES)
    with Crowd(address, 1, bench.file_limit, bench.cpus.load) as first:
        first.ask(REQUESTS)
    before = child.rss_kib()
    with Crowd(address, wanted, bench.file_limit, bench.cpus.load) as crowd:
        time.sleep(1)
        used = child.rss_kib() - before
        cpu = child.cpu_seconds()
        time.sleep(1)
        resting = child.cpu_seconds() - cpu
        took, failed = crowd.ask(REQUESTS)
        return {
            "wanted": WANTED,
            "asked": wanted,
            "held": crowd.held,
            "open_at_end": crowd.still_open(),
            "file_limit": bench.file_limit,
            "kib_per_connection": used / max(crowd.held, 1),
            "resting_cpu": resting,
            "requests": len(took) + failed,
            "failed": failed,
            "p50_us": percentile(took, 0.5),
            "p99_us": percentile(took, 0.99),
        }
