"""What clients saw against what endpoints did, by request id. Pure.

*Failed*: anything but a whole 200. *Lost*: neither an answer nor an honest error; the client was
left with a closed connection or half an answer. *Given up*: the client's own patience ended first,
so what the proxy would have said is not known. *Doubled*: applied more than once. *Vanished*:
answered with 200 and never applied.
"""

import bisect
from collections import Counter
from dataclasses import dataclass, field

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
GIVEN_UP = "no answer in time"  # as programs/load.py has it


@dataclass(frozen=True)
class Asked:
    """A request as its client saw it; times are monotonic, in nanoseconds."""

    identity: str
    kind: str
    method: str
    due: int
    began: int
    ended: int
    status: int  # 0: no whole answer
    cause: str  # why not
    server: str
    retry_after: bool

    @property
    def failed(self) -> bool:
        return self.status != 200

    @property
    def lost(self) -> bool:
        return self.status == 0 and not self.given_up

    @property
    def given_up(self) -> bool:
        return self.cause == GIVEN_UP

    @property
    def milliseconds(self) -> float:
        return (self.ended - self.due) / MILLISECOND

    @property
    def outcome(self) -> str:
        return self.cause or f"status {self.status}"


@dataclass(frozen=True)
class Applied:
    """A request that an endpoint read whole."""

    at: int
    identity: str
    method: str
    server: str


@dataclass
class Reconciliation:
    gets: int = 0
    failed_gets: list[Asked] = field(default_factory=list)
    posts: int = 0
    failed_posts: list[Asked] = field(default_factory=list)
    lost: list[Asked] = field(default_factory=list)  # of both kinds
    given_up: list[Asked] = field(default_factory=list)  # of both kinds
    doubled: list[str] = field(default_factory=list)  # ids of POSTs
    vanished: list[str] = field(default_factory=list)  # of both kinds
    unknown: list[str] = field(default_factory=list)  # applied, and asked by nobody

    def causes(self) -> dict[str, int]:
        failed = self.failed_gets + self.failed_posts
        counted = Counter(f"{asked.method} {asked.outcome}" for asked in failed)
        return dict(counted.most_common())


def reconcile(asked: list[Asked], applied: list[Applied]) -> Reconciliation:
    found = Reconciliation()
    times = Counter(entry.identity for entry in applied)
    known = {request.identity for request in asked}
    for request in asked:
        if request.method == "GET":
            found.gets += 1
        else:
            found.posts += 1
        if request.failed:
            failed = found.failed_gets if request.method == "GET" else found.failed_posts
            failed.append(request)
        elif not times[request.identity]:
            found.vanished.append(request.identity)
        if request.lost:
            found.lost.append(request)
        if request.given_up:
            found.given_up.append(request)
        if request.method != "GET" and times[request.identity] > 1:
            found.doubled.append(request.identity)
    found.unknown = [identity for identity in times if identity not in known]
    return found


def recovery(asked: list[Asked], faults: list[int], slow_ms: float) -> float:
    """Seconds from a fault to the end of the last request that failed or was slow; 0 if none was.

    Of several faults, in the order of time, the one that took longest counts. A request belongs to
    the fault that came while it was under way, or else to the last one before it.
    """
    longest = 0
    for request in asked:
        if request.ended < faults[0] or not (request.failed or request.milliseconds > slow_ms):
            continue
        place = bisect.bisect_right(faults, request.due)
        came = place < len(faults) and faults[place] <= request.ended
        fault = faults[place if came else place - 1]
        longest = max(longest, request.ended - fault)
    return longest / SECOND


def latencies(asked: list[Asked], begin: int, end: int) -> list[float]:
    """Milliseconds, sorted, of the requests that were due in the span and got their answer."""
    return sorted(
        request.milliseconds
        for request in asked
        if begin <= request.due < end and not request.failed
    )
