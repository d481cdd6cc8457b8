"""Bounds, and whether they are kept."""

from dataclasses import asdict, dataclass

P99_FACTOR = 3.0


@dataclass(frozen=True)
class Check:
    """A figure against its bound. A figure that is None could not be measured: not kept."""

    what: str
    value: float | None
    bound: float
    unit: str = ""
    least: bool = False  # the bound is a lowest, not a highest value

    @property
    def kept(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.bound if self.least else self.value <= self.bound

    def record(self, common: bool) -> dict:
        """`common`: it holds in every row."""
        return {**asdict(self), "kept": self.kept, "common": common, "text": self.text()}

    def text(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:g}{self.unit}"
        if self.bound == 0 and not self.least:
            return f"{self.what}: {value}"
        side = "at least" if self.least else "at most"
        return f"{self.what}: {value}, {side} {self.bound:g}{self.unit}"


def none(what: str, value: float | None) -> Check:
    return Check(what, value, 0)


def at_most(what: str, value: float | None, bound: float, unit: str = "") -> Check:
    return Check(what, value, bound, unit)


def at_least(what: str, value: float | None, bound: float, unit: str = "") -> Check:
    return Check(what, value, bound, unit, least=True)


def p99_bound(quiet_ms: float | None, direct_ms: float | None, floor_ms: float) -> float:
    """Three times the quiet one, but not below the floor: there a ratio tells of the machine.

    Where those who ask the endpoint directly have a higher one meanwhile, it is the machine that
    is busy (with the crowd's own work above all): three times theirs.
    """
    return max(P99_FACTOR * max(quiet_ms or 0.0, direct_ms or 0.0), floor_ms)
