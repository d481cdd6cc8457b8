"""The rows of the fault table, by name."""

from cases import bodies, clocks, endpoints, limits, reloads, services, slow, upgrades
from cases.base import Case

_ALL: tuple[type[Case], ...] = (
    endpoints.Kill,
    endpoints.Freeze,
    endpoints.Drop,
    endpoints.Refuse,
    endpoints.KillRegion,
    endpoints.FreezeRegion,
    endpoints.DropRegion,
    services.AllDown,
    bodies.Reset,
    bodies.Truncated,
    reloads.Reload,
    reloads.ReloadStorm,
    reloads.BrokenFile,
    reloads.Geo,
    upgrades.Upgrade,
    upgrades.FailedUpgrade,
    limits.Descriptors,
    limits.Memory,
    limits.Disk,
    clocks.Clock,
    clocks.Stopped,
    services.Names,
    slow.Slow,
)
CASES: dict[str, type[Case]] = {case.name: case for case in _ALL}
