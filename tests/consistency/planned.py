"""Parts in which nothing goes wrong: a planned switchover under writes, and where reads go."""

import json
import time
from collections import Counter

from harness import admin, judge
from harness.judge import Check
from judging.history import MS, History, Op
from judging.invariants import violations
from parts import Part, causes, spread
from topology.edge import SERVICE, Edge, Settings
from topology.links import EDGES
from topology.operator import Operator

# The example application names a class of psycopg.
DATABASE_SAYS = ('{"error": "AdminShutdown', '{"error": "OperationalError')
LEAST_WRITES = 100  # without them nothing was shown
PARK_MS = 9_000  # how long a write may wait by the edges' configuration, and its answer


class Switchover(Part):
    """Writes and reads, and the primary is moved and moved back by the edge's own command."""

    name = "switchover"
    title = "Planned switchover under writes"
    rounds = 4

    def edge_names(self) -> tuple[str, ...]:
        return EDGES[:1]  # who moves the primary knows of the writes at its own edge

    def _edge(self, name: str) -> Edge:
        if not hasattr(self, "operator"):
            self.operator = Operator(self.site, self.folder)
        failover = f'mode = "hook"\nhold = "60s"\n{self.operator.hook}'
        self.edge_settings = Settings(failover=failover, moves=True)
        return super()._edge(name)

    def run(self) -> list[Check]:
        self.watch()
        crowd = self.crowd("c", write_share=0.7)
        crowd.wait(2)
        refused, moved = [], 0
        rounds = 2 if self.setting.plan.name == "short" else self.rounds
        for number in range(rounds):
            wanted = "r2" if self.site.primary != "r2" else "r1"
            said = self._move(wanted)
            if said:
                refused.append(said)
            else:
                moved += 1
            crowd.wait(3)
            if said and number == 0:
                break
        ops = crowd.finish()
        self.operator.close()
        self.site.until_whole()
        history = self.history(ops)
        found = violations(history)
        self._measure(ops, moved, refused)
        if found or refused or self.figures["failed"]:
            self.keep_logs()
        self.figures["violations"] = [f"{each.invariant}: {each.text}" for each in spread(found)]
        return [
            judge.at_least("switchovers", moved, rounds),
            judge.none("violations of the invariants", len(found)),
            *self._judge(history),
        ]

    def _judge(self, history: History) -> list[Check]:
        return [
            judge.at_least("writes", self.figures["writes"], LEAST_WRITES),
            judge.none("failed writes", self.figures["failed_writes"]),
            judge.none("failed reads", self.figures["failed_reads"]),
        ]

    def _move(self, wanted: str) -> str:
        """Nothing if it worked, else what the edge said."""
        edge = self.edges[EDGES[0]]
        body = json.dumps({"to": wanted, "reason": "planned", "force": True})
        path = f"/api/v1/services/{SERVICE}/switchover"
        status, text = admin.ask(edge.admin, path, "POST", body)
        if status not in (200, 202):
            return f"{status} {text.strip()[:300]}"
        end = time.monotonic() + 30
        while time.monotonic() < end:
            sample = edge.sample()
            if sample and (sample.state, sample.region) == ("settled", wanted):
                return ""
            time.sleep(0.02)
        return f"{wanted} is not the primary after 30 s: {edge.sample()}"

    def _measure(self, ops: list[Op], moved: int, refused: list[str]) -> None:
        writes = [op for op in ops if op.kind == "write"]
        done = sorted(op.ended for op in writes if op.is_acknowledged)
        gaps = sorted((after - before for before, after in zip(done, done[1:])), reverse=True)
        failed = [op for op in ops if op.status not in (200, 201, 404)]
        self.figures |= {
            "writes": len(writes),
            "moved": moved,
            "refused": refused,
            "failed_writes": sum(op.kind == "write" for op in failed),
            "failed_reads": sum(op.kind == "read" for op in failed),
            "failed": causes(failed),
            # No write is answered while the primary moves: the longest times without an answer.
            "pauses_ms": [round(gap / MS, 1) for gap in gaps[: max(moved, 1)]],
            "database_ms": [round(seconds * 1000, 1) for seconds in self.operator.seconds],
            "longest_write_ms": longest_ms(writes),
        }


class SwitchoverOfTwo(Switchover):
    """The same with a second edge that nobody tells: it goes on writing to the old primary until
    that one is stopped or refuses, waits, and follows (docs/failover.md).
    """

    name = "switchover-of-two"
    title = "Planned switchover at one of two edges that both carry writes"

    def edge_names(self) -> tuple[str, ...]:
        return EDGES

    def _judge(self, history: History) -> list[Check]:
        asked, other = EDGES
        for edge in EDGES:
            self.figures[edge] = self._of(edge, history)
        # What the old primary's application says while the database ends: no edge can know that.
        strange = [
            op
            for op in history.ops
            if is_failed(op) and not (op.status == 503 and op.cause.startswith(DATABASE_SAYS))
        ]
        rows = Counter(row.id for row in history.applied)
        return [
            judge.none("failed at the edge that was asked", self.figures[asked]["all_failed"]),
            judge.none("failed at the other for another reason than its database", len(strange)),
            judge.none("writes applied twice", sum(count > 1 for count in rows.values())),
            judge.at_most(
                "longest write at the other edge",
                self.figures[other]["longest_write_ms"],
                PARK_MS,
                " ms",
            ),
        ]

    def _of(self, edge: str, history: History) -> dict:
        ops = [op for op in history.ops if op.edge == edge]
        writes = [op for op in ops if op.kind == "write"]
        failed = [op for op in ops if is_failed(op)]
        done = sorted(op.ended for op in writes if op.is_acknowledged)
        gaps = sorted((after - before for before, after in zip(done, done[1:])), reverse=True)
        refused = [arrival for arrival in history.arrivals if arrival.status == 421]
        return {
            "writes": len(writes),
            "all_failed": len(failed),
            "failed": causes(failed),
            "refused_421": sum(arrival.edge == edge for arrival in refused),
            "longest_write_ms": longest_ms(writes),
            "pauses_ms": [round(gap / MS, 1) for gap in gaps[: max(self.figures["moved"], 1)]],
        }


def longest_ms(ops: list[Op]) -> float | None:
    """None of none: nobody can say then that it was short enough."""
    return round(max(op.ended - op.began for op in ops) / MS, 1) if ops else None


def is_failed(op: Op) -> bool:
    return op.status not in (200, 201, 404)


class Distribution(Part):
    """Reads with tokens beside reads that go to the primary for 2 s after a write, in one run."""

    name = "distribution"
    title = "Where reads go, with tokens and without"
    # The primary is 40 ms away from the edge that is asked, a replica 2 ms.
    delays = {(EDGES[0], "r1"): 40, (EDGES[0], "r2"): 2, (EDGES[0], "r3"): 20}
    seconds = 20.0

    def edge_names(self) -> tuple[str, ...]:
        return EDGES[:1]

    def run(self) -> list[Check]:
        order = {"sessions": 12, "write_share": 0.2, "think_ms": 100}
        crowds = {
            "tokens": self.crowd("t", ways=["cookie", "header"], **order),
            "pinned": self.crowd("p", ways=["pinned"], **order),
        }
        crowds["tokens"].wait(8.0 if self.setting.plan.name == "short" else self.seconds)
        ops = {name: crowd.finish() for name, crowd in crowds.items()}
        self.site.until_whole()
        found = violations(self.history([op for each in ops.values() for op in each]))
        if found:
            self.keep_logs()
        for name, each in ops.items():
            self.figures[name] = self._figures(each)
        self.figures["violations"] = [f"{each.invariant}: {each.text}" for each in spread(found)]
        tokens, pinned = self.figures["tokens"], self.figures["pinned"]
        return [
            judge.none("violations of the invariants", len(found)),
            judge.none("failed requests", tokens["failed"] + pinned["failed"]),
            judge.at_least(
                "share of reads at replicas with tokens",
                tokens["at_replicas"],
                pinned["at_replicas"],
            ),
            judge.at_most(
                "mean of a read with tokens", tokens["mean_ms"], pinned["mean_ms"], " ms"
            ),
        ]

    def _figures(self, ops: list[Op]) -> dict:
        reads = [op for op in ops if op.has_answer]
        times = sorted((op.ended - op.began) / MS for op in reads)
        at_replicas = sum(op.region != self.site.primary for op in reads)
        return {
            "reads": len(reads),
            "writes": sum(op.kind == "write" for op in ops),
            "failed": sum(op.status not in (200, 201, 404) for op in ops),
            "at_replicas": round(at_replicas / max(len(reads), 1), 3),
            "by_region": dict(sorted(Counter(op.region for op in reads).items())),
            "mean_ms": round(sum(times) / max(len(times), 1), 1),
            "median_ms": round(times[len(times) // 2], 1) if times else None,
            "p99_ms": round(times[int(len(times) * 0.99)], 1) if times else None,
        }
