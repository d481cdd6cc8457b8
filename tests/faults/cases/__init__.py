"""The rows of the fault table, by name."""

from cases import endpoints
from cases.base import Case

_ALL: tuple[type[Case], ...] = (
    endpoints.Kill,
    endpoints.Freeze,
    endpoints.Drop,
    endpoints.Refuse,
    endpoints.KillRegion,
    endpoints.FreezeRegion,
    endpoints.DropRegion,
)
CASES: dict[str, type[Case]] = {case.name: case for case in _ALL}
