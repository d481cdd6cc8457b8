"""What a measurement is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.load import Burst
from lab.machine import Cpus
from proxies import Running, Setup


@dataclass(frozen=True)
class Bench:
    """What every measurement has at hand."""

    cpus: Cpus
    seconds: int
    file_limit: int


@dataclass(frozen=True)
class Case:
    """One figure, or a few that belong together, of one proxy in one setup."""

    mode: str
    variant: str
    setup: Setup
    measure: Callable[[Bench, Running], dict]
    shares_process: bool = False  # one process may serve all such cases, one after the other
    proxy_cpus: str = "proxy"  # which of `Cpus`


def cost(
    running: Running, seconds: float, burst: Callable[[float], Burst], warm_up: int = 1
) -> dict:
    """CPU microseconds of the proxy, user and system, per answered request."""
    burst(warm_up)
    before, begin = running.child.cpu_seconds(), time.monotonic()
    done = burst(seconds)
    used = running.child.cpu_seconds() - before
    wall = time.monotonic() - begin
    return {
        "cpu_us": used / max(done.done, 1) * 1e6,
        "rps": done.done / seconds,
        "busy": used / wall,
        "bad": done.bad,
        "p50_us": done.p50_us,
        "p99_us": done.p99_us,
        "mean_us": done.mean_us,
    }
