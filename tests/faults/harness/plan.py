"""How long and how much: the whole suite, and the short one for CI.

A fault lasts longer than a client is willing to wait: else whoever waits for a silent endpoint
would be answered when it heals, and the proxy would look as if it had helped.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    name: str
    calm: float  # seconds before the fault, to know the quiet latency
    hold: float  # seconds of the fault
    patience: float  # seconds that a client waits for the whole answer; less than `hold`
    settle: float  # seconds after it
    reloads: int  # of the storm, ten a second
    steady_reloads: int  # one a second, of all proxies
    upgrades: int
    stop: float  # seconds that the proxy itself stands still
    failing_names: float  # seconds; longer than a name is kept (5 s)
    slow: int  # clients of each of three kinds
    crowd: int  # clients against 256 descriptors
    memory_crowd: int  # of each of two kinds against 256 MiB
    p99_floor_ms: float


WHOLE = Plan("whole", 4, 8, 5, 4, 1000, 20, 20, 10, 20, 1000, 2000, 3000, 20)
SHORT = Plan("short", 1.2, 4, 3, 1, 30, 3, 2, 4, 8, 300, 1000, 800, 100)
