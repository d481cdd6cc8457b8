"""What clients, applications, databases and edges wrote down of one run.

All times are nanoseconds of one monotonic clock: every process runs on the same machine.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

SECOND = 1_000_000_000
MS = 1_000_000


@dataclass(frozen=True)
class Op:
    """One request of a client. A session does one after the other."""

    id: str
    session: str
    kind: str  # "write" or "read"
    key: str
    edge: str
    began: int
    ended: int
    status: int  # 0: no whole answer
    version: int = 0  # of the note: what the write made it, or what the read saw
    region: str = ""  # that answered
    bound_ms: int | None = None  # the staleness that the client allowed
    cause: str = ""  # why there is no answer, or what an error said
    primary_only: bool = False  # a client without tokens that reads from the primary after a write

    @property
    def is_acknowledged(self) -> bool:
        return self.kind == "write" and self.status == 201

    @property
    def has_answer(self) -> bool:
        """A read that says what it saw; 404 is a note that is not there yet."""
        return self.kind == "read" and self.status in (200, 404)


@dataclass(frozen=True)
class Arrival:
    """A write that reached a region's application, and what became of it there."""

    id: str
    region: str
    edge: str
    at: int
    wanted: int | None  # the epoch in the request
    done: int = 0  # when it was answered; 0: never
    status: int = 0
    epoch: int | None = None  # of the database that executed it


@dataclass(frozen=True)
class Applied:
    """A row of the table that every write adds one to, in the database that is left in the end."""

    id: str
    key: str
    version: int
    region: str
    epoch: int


@dataclass(frozen=True)
class BackendEpoch:
    """A region's application began to say this of itself."""

    at: int
    region: str
    epoch: int
    role: str


@dataclass(frozen=True)
class Sample:
    """What an edge's admin endpoint said of the service's primary."""

    asked: int
    answered: int
    edge: str
    epoch: int
    state: str  # "settled", "unknown", "contested" or "moving"
    region: str
    since: int  # Unix ms: the same in two samples means that nothing was different in between


@dataclass(frozen=True)
class Trouble:
    """A time in which what was sent to a region may have lain around: stopped, or cut off."""

    region: str
    began: int
    ended: int


@dataclass
class History:
    ops: list[Op] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    backends: list[BackendEpoch] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    route_bound_ms: int | None = None  # max_staleness of the route

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def arrivals_of(region: str, lines: Iterable[str]) -> tuple[list[Arrival], list[BackendEpoch]]:
    """From a region's journal. A last line that a kill has cut short is left out."""
    begun: dict[int, dict] = {}
    done: dict[int, dict] = {}
    epochs = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["what"] == "arrived":
            begun[entry["number"]] = entry
        elif entry["what"] == "done":
            done[entry["number"]] = entry
        else:
            epochs.append(BackendEpoch(entry["at"], region, entry["epoch"], entry["role"]))
    arrivals = [
        Arrival(
            entry["id"],
            region,
            entry["edge"],
            entry["at"],
            entry["wanted"],
            done.get(number, {}).get("at", 0),
            done.get(number, {}).get("status", 0),
            done.get(number, {}).get("epoch"),
        )
        for number, entry in begun.items()
    ]
    return arrivals, epochs
