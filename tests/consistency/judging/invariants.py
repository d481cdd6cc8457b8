"""The seven invariants of a write router, each a function from a history to what breaks it.

1. In one epoch, at most one region executes writes.
2. The epoch never decreases, at a backend or in a worker.
3. After a promotion is acknowledged nothing reaches the old primary as a write.
4. An acknowledged write is applied exactly once; an unacknowledged one at most once.
5. Read-your-writes and monotonic reads for each session.
6. No read is staler than its bound.
7. With the primary unknown or contested, no write goes to anybody.
"""

import bisect
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from judging.history import MS, Arrival, History, Op, Sample

# From when an edge sends a write until the application writes down that it came: the machine is
# busy, and the application is Python.
ARRIVAL_SLACK = 300 * MS


@dataclass(frozen=True)
class Violation:
    invariant: int
    text: str


def one_region_executes(history: History) -> Iterator[Violation]:
    """By the databases' own rows, and by what applications say that they have executed."""
    regions: dict[int, dict[str, str]] = defaultdict(dict)
    for row in history.applied:
        regions[row.epoch].setdefault(row.region, row.id)
    for arrival in history.arrivals:
        if arrival.status == 201 and arrival.epoch is not None:
            regions[arrival.epoch].setdefault(arrival.region, arrival.id)
    for epoch, found in regions.items():
        if len(found) > 1:
            yield Violation(1, f"epoch {epoch}: writes executed by {found}")
    yield from epochs_overlap(history)


def epochs_overlap(history: History) -> Iterator[Violation]:
    """An acknowledged write of an epoch, begun after one of a later epoch was acknowledged: the
    earlier one's region had not stopped.
    """
    epoch_of = {row.id: row.epoch for row in history.applied}
    for arrival in history.arrivals:
        if arrival.status == 201 and arrival.epoch is not None:
            epoch_of.setdefault(arrival.id, arrival.epoch)
    writes = [op for op in history.ops if op.is_acknowledged and op.id in epoch_of]
    for op, before in after_what_ended(writes, lambda op: epoch_of[op.id]):
        if epoch_of[op.id] < before:
            yield Violation(
                1, f"{op.id} executed in epoch {epoch_of[op.id]} after a write of epoch {before}"
            )


def after_what_ended(ops: list[Op], value: Callable[[Op], int]) -> Iterator[tuple[Op, int]]:
    """Each op with the highest value of those that had ended before it began."""
    running: list[tuple[int, int]] = []
    highest: int | None = None
    for op in sorted(ops, key=lambda op: op.began):
        while running and running[0][0] < op.began:
            ended = heapq.heappop(running)[1]
            highest = ended if highest is None else max(highest, ended)
        if highest is not None:
            yield op, highest
        heapq.heappush(running, (op.ended, value(op)))


def epochs_only_grow(history: History) -> Iterator[Violation]:
    known: dict[str, int] = {}
    for seen in sorted(history.backends, key=lambda seen: seen.at):
        if seen.epoch < known.get(seen.region, 0):
            yield Violation(2, f"backend {seen.region}: {known[seen.region]}, then {seen.epoch}")
        known[seen.region] = seen.epoch
    known = {}
    for sample in sorted(history.samples, key=lambda sample: sample.answered):
        if sample.epoch < known.get(sample.edge, 0):
            yield Violation(2, f"{sample.edge} said {known[sample.edge]}, then {sample.epoch}")
        known[sample.edge] = sample.epoch
    yield from sent_epochs_grow(history)


def sent_epochs_grow(history: History) -> Iterator[Violation]:
    """Of two writes through one edge, one ended before the other began: the epochs that the edge
    put on them, whichever workers they met.
    """
    by_id = {op.id: op for op in history.ops}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    edges: dict[str, list[Op]] = defaultdict(list)
    for arrival in history.arrivals:
        if arrival.wanted is None or arrival.id not in by_id:
            continue
        if arrival.id not in first:
            edges[arrival.edge].append(by_id[arrival.id])
        first[arrival.id] = min(first.get(arrival.id, arrival.wanted), arrival.wanted)
        last[arrival.id] = max(last.get(arrival.id, 0), arrival.wanted)
    for edge, ops in edges.items():
        for op, before in after_what_ended(ops, lambda op: last[op.id]):
            if first[op.id] < before:
                yield Violation(2, f"{edge} sent {op.id} for epoch {first[op.id]} after {before}")


def nothing_reaches_the_old_primary(history: History) -> Iterator[Violation]:
    """An edge has said that it knows of an epoch; later a write of an earlier one comes from it."""
    acknowledged: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for sample in sorted(history.samples, key=lambda sample: sample.answered):
        of_edge = acknowledged[sample.edge]
        if not of_edge or sample.epoch > of_edge[-1][1]:
            of_edge.append((sample.answered, sample.epoch))
    for arrival in history.arrivals:
        of_edge = acknowledged[arrival.edge]
        place = bisect.bisect_left(of_edge, (sent_by(history, arrival), 0)) - 1
        if place >= 0 and (arrival.wanted or 0) < of_edge[place][1]:
            yield Violation(
                3,
                f"{arrival.id} reached {arrival.region} for epoch {arrival.wanted}, when "
                f"{arrival.edge} had acknowledged {of_edge[place][1]}",
            )


def sent_by(history: History, arrival: Arrival) -> int:
    """The earliest time at which what arrived may have been sent."""
    earliest = arrival.at - ARRIVAL_SLACK
    for trouble in history.troubles:
        if trouble.region == arrival.region and trouble.began <= arrival.at:
            if earliest <= trouble.ended:
                earliest = min(earliest, trouble.began - ARRIVAL_SLACK)
    return earliest


def applied_once(history: History) -> Iterator[Violation]:
    rows = Counter(row.id for row in history.applied)
    executed = Counter(arrival.id for arrival in history.arrivals if arrival.status == 201)
    writes = {op.id: op for op in history.ops if op.kind == "write"}
    for op in writes.values():
        if op.is_acknowledged and not rows[op.id]:
            yield Violation(4, f"{op.id} was acknowledged by {op.region} and is lost")
        if rows[op.id] > 1:
            yield Violation(4, f"{op.id} is applied {rows[op.id]} times (status {op.status})")
        elif executed[op.id] > 1:
            yield Violation(4, f"{op.id} was executed {executed[op.id]} times")
    for identity in rows:
        if identity not in writes:
            yield Violation(4, f"{identity} is applied, and nobody has sent it")
    versions = Counter((row.key, row.version) for row in history.applied)
    for (key, version), count in versions.items():
        if count > 1:
            yield Violation(4, f"version {version} of {key} was made {count} times")


def sessions_see_what_they_saw(history: History) -> Iterator[Violation]:
    """Own writes and all earlier reads, whichever edge and region answered."""
    early = set(map(id, seen_early(history)))
    for op, version, before in going_back(history):
        if id(op) not in early:
            rule = "own write" if before.kind == "write" else "earlier read"
            yield Violation(
                5,
                f"{op.id} at {op.edge}, {op.region}: version {op.version} of {op.key}, after the "
                f"{rule} {before.id} at {before.edge}, {before.region}: {version}",
            )


def seen_early(history: History) -> list[Op]:
    """Reads at the primary that do not show what a replica showed before the primary had
    acknowledged it to anybody. PostgreSQL does so while a replica's confirmation is under way
    (docs/taking-part.md): no router can know. Counted, and not held against it.
    """
    ended = {op.id: op.ended for op in history.ops if op.is_acknowledged}
    made = {(row.key, row.version): row for row in history.applied}
    found = []
    for op, _, before in going_back(history):
        missed = made.get((op.key, op.version + 1))
        if missed is None or before.kind == "write":
            continue
        by_primary = op.region == missed.region != before.region
        if by_primary and ended.get(missed.id, op.ended) > op.began:
            found.append(op)
    return found


def going_back(history: History) -> Iterator[tuple[Op, int, Op]]:
    """A read, the version that its session had seen, and where."""
    seen: dict[tuple[str, str], tuple[int, Op]] = {}
    for op in sorted(history.ops, key=lambda op: op.began):
        if not (op.is_acknowledged or op.has_answer):
            continue
        place = (op.session, op.key)
        version, before = seen.get(place, (0, op))
        if op.has_answer and op.version < version:
            yield op, version, before
        if op.version > version:
            seen[place] = (op.version, op)


def no_read_is_too_old(history: History) -> Iterator[Violation]:
    """What was acknowledged longer ago than the bound must be in what a read sees."""
    times: dict[str, list[int]] = defaultdict(list)
    highest: dict[str, list[int]] = defaultdict(list)
    for op in sorted(history.ops, key=lambda op: op.ended):
        if op.is_acknowledged:
            before = highest[op.key][-1] if highest[op.key] else 0
            times[op.key].append(op.ended)
            highest[op.key].append(max(before, op.version))
    for op in history.ops:
        bounds = [bound for bound in (op.bound_ms, history.route_bound_ms) if bound is not None]
        if not op.has_answer or not bounds:
            continue
        place = bisect.bisect_left(times[op.key], op.began - min(bounds) * MS)
        if place and op.version < highest[op.key][place - 1]:
            age = (op.began - times[op.key][place - 1]) / MS
            yield Violation(
                6,
                f"{op.id} at {op.edge}, {op.region}, bound {min(bounds)} ms: version {op.version} "
                f"of {op.key}, {highest[op.key][place - 1]} was acknowledged {age:.0f} ms before",
            )


def unsettled(samples: list[Sample]) -> Iterator[tuple[int, int, Sample]]:
    """Times in which an edge did not know the primary: between samples that say the same."""
    edges: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample.answered):
        edges[sample.edge].append(sample)
    for of_edge in edges.values():
        for one, next_one in zip(of_edge, of_edge[1:]):
            same = (one.state, one.since, one.epoch) == (
                next_one.state,
                next_one.since,
                next_one.epoch,
            )
            if one.state in ("unknown", "contested") and same:
                yield one.answered, next_one.asked, one


def nothing_is_written_without_a_primary(history: History) -> Iterator[Violation]:
    arrivals: dict[str, list[tuple[int, Arrival]]] = defaultdict(list)
    for arrival in history.arrivals:
        arrivals[arrival.edge].append((sent_by(history, arrival), arrival))
    for of_edge in arrivals.values():
        of_edge.sort(key=lambda each: each[0])
    for began, ended, sample in unsettled(history.samples):
        of_edge = arrivals[sample.edge]
        for sent, arrival in of_edge[
            bisect.bisect_left(of_edge, began, key=lambda each: each[0]) :
        ]:
            if arrival.at >= ended:
                if sent >= ended:
                    break
                continue
            yield Violation(
                7, f"{arrival.id} reached {arrival.region} while {sample.edge} was {sample.state}"
            )


INVARIANTS: dict[int, Callable[[History], Iterator[Violation]]] = {
    1: one_region_executes,
    2: epochs_only_grow,
    3: nothing_reaches_the_old_primary,
    4: applied_once,
    5: sessions_see_what_they_saw,
    6: no_read_is_too_old,
    7: nothing_is_written_without_a_primary,
}


def violations(history: History) -> list[Violation]:
    return [found for check in INVARIANTS.values() for found in check(history)]
