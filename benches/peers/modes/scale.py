"""scale: CPU per request as the configuration or the number of clients grows. Peers are measured on
the curve of connections; what grows on the others only Meridian has, or has in this form.

Endpoints are many addresses of one backend. Health checks run every 30 s in all points of all
curves: a thousand of them would otherwise be part of the figure. On the curve of connections only
the time after they were opened counts.
"""

from pathlib import Path

from lab.load import window, wrk
from modes.base import Bench, Case, cost
from proxies import Proxy, Running, Setup
from proxies.meridian import route_path

PROBE_INTERVAL = "30s"
CONNECTIONS = 64
CURVES = {
    "regions": (1, 2, 4, 16, 32, 64),
    "routes": (10, 100, 1000, 3000, 10_000),
    "endpoints": (4, 16, 64, 250, 1000),
    "connections": (1, 8, 64, 512, 2000, 10_000),
}
LUA = """local requests = {}
local turn = 0
init = function()
  for path in io.lines("%s") do requests[#requests + 1] = wrk.format("GET", path) end
end
request = function()
  turn = turn %% #requests + 1
  return requests[turn]
end
"""


def cases(mode: str, proxy: Proxy, bench: Bench) -> list[Case]:
    curves = CURVES if proxy.is_meridian else {"connections": CURVES["connections"]}
    points = [(curve, value) for curve, values in curves.items() for value in values]
    points = dict.fromkeys((curve, possible(curve, value, bench)) for curve, value in points)
    return [
        Case(mode, f"{curve}={value}", setup(curve, value), measure(curve, value))
        for curve, value in points
    ]


def possible(curve: str, value: int, bench: Bench) -> int:
    """Of connections, what the limit of open files allows: two for each, and an eighth is kept."""
    return min(value, bench.file_limit * 7 // 16 - 50) if curve == "connections" else value


def setup(curve: str, value: int) -> Setup:
    changed = {
        "regions": {"regions": value, "endpoints": 64, "many_addresses": True},
        "routes": {"routes": value},
        "endpoints": {"endpoints": value, "many_addresses": True},
        "connections": {"max_connections": max(value, Setup.max_connections)},
    }[curve]
    return Setup(probe_interval=PROBE_INTERVAL, **changed)


def measure(curve: str, value: int):
    def measured(bench: Bench, running: Running) -> dict:
        url, cpus = running.site.url("h1"), bench.cpus.load
        if curve == "connections":
            figures = window(
                url, cpus, value, bench.seconds, running.site.folder, running.child.cpu_seconds
            )
        else:
            script = walk(running.site.folder, value) if curve == "routes" else None
            figures = cost(
                running, bench.seconds, lambda s: wrk(url, cpus, CONNECTIONS, int(s), script)
            )
        return {
            **figures,
            "curve": curve,
            "value": value,
            "probe_interval": PROBE_INTERVAL,
            "rss_mib": running.child.rss_kib() / 1024,
        }

    return measured


def walk(folder: Path, routes: int) -> Path:
    """A wrk script that asks for the paths of all routes in turn."""
    (folder / "paths.txt").write_text("\n".join(route_path(n) for n in range(routes - 1)) + "\n")
    (folder / "walk.lua").write_text(LUA % (folder / "paths.txt"))
    return folder / "walk.lua"
