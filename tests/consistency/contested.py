"""Two databases that are the primary of one epoch, and applications that would execute whatever
comes: the edges alone are in the way.
"""

import json
import time
from collections import Counter

from harness import admin, judge
from harness.judge import Check
from judging.history import MS, Op, Sample
from judging.invariants import violations
from nemeses import Links
from parts import Part, causes, note, spread
from topology.edge import SERVICE, Edge
from topology.site import Region

REFUSED = "meridian_refusals_total{"
CONTESTED = 'filter="primary-contested"'
# A round in which nobody writes shows nothing. In its two seconds eight sessions write hundreds.
LEAST_WRITES = 10


class Contested(Part):
    """Both standbys are promoted, each on its side of a cut; then one of them gives way."""

    name = "contested"
    title = "Two regions claim one epoch, with fencing switched off in the application"
    # With it a primary that no replica confirms says that it is none: nothing would be contested.
    fencing = False

    def lacking(self) -> str | None:
        return Links.lacking()

    def run(self) -> list[Check]:
        self.watch()
        ops = self._calm("before", 1.5)
        self.refused: Counter = Counter()
        self.named: Counter = Counter()
        self.executed = self.waited = 0
        self.met: Counter = Counter()
        short = self.setting.plan.name == "short"
        ways = [self._demoted] if short else [self._demoted, self._named]
        for number, resolve in enumerate(ways):
            ops += self._round(number, resolve)
        self.site.until_whole()
        history = self.history(ops)
        found = violations(history)
        contested = Counter(each.edge for each in history.samples if each.state == "contested")
        self.figures |= {
            "writes": sum(op.kind == "write" for op in ops),
            "acknowledged": sum(op.is_acknowledged for op in ops),
            "contested_samples": dict(sorted(contested.items())),
            "refused_contested": dict(sorted(self.refused.items())),
            "named_by_the_operator": dict(sorted(self.named.items())),
            "executed_while_contested": self.executed,
            "longest_refusal_ms": round(self.waited / MS, 1),
            "failed": causes([op for op in ops if op.status not in (200, 201, 404)]),
            "violations": [f"{each.invariant}: {each.text}" for each in spread(found)],
        }
        checks = [
            judge.at_least(f"requests refused by {edge} as contested", self.refused[edge], 1)
            for edge in self.edges
        ]
        checks += [
            judge.at_least(
                f"writes through {edge} that met it in round {number}",
                self.met[number, edge],
                LEAST_WRITES,
            )
            for number in range(len(ways))
            for edge in self.edges
        ]
        checks += [
            judge.none("writes executed while contested", self.executed),
            judge.at_most(
                "longest time to a refusal", self.figures["longest_refusal_ms"], 1000, " ms"
            ),
            judge.none("violations of the invariants", len(found)),
        ]
        if any(not check.kept for check in checks):
            self.keep_logs()
        return checks

    def _calm(self, name: str, seconds: float) -> list[Op]:
        """Nothing may fail."""
        crowd = self.crowd(name, sessions=8)
        crowd.wait(seconds)
        ops = crowd.finish()
        failed = [op for op in ops if op.status not in (200, 201, 404)]
        if failed or not any(op.is_acknowledged for op in ops):
            raise RuntimeError(f"{name}: {causes(failed)} of {len(ops)}")
        self.site.until_whole()
        return ops

    def _round(self, number: int, resolve) -> list[Op]:
        old, standbys = self.site.regions[self.site.primary], self.site.others()
        self._split(old, *standbys)
        self._until_contested()
        # One edge at least takes it for the primary, as far as there is one.
        first = said(self.edges[self.edge_names()[0]]).region
        winner, loser = sorted(standbys, key=lambda region: region.name != first)
        before = {name: refusals(edge) for name, edge in self.edges.items()}
        crowd = self.crowd(f"during-{number}", sessions=8, write_share=0.6)
        crowd.wait(2)
        self._until_contested()
        ops = crowd.finish()
        for name, edge in self.edges.items():
            self.refused[name] += refusals(edge) - before[name]
        writes = [op for op in ops if op.kind == "write"]
        self.met.update((number, op.edge) for op in writes if op.status == 503)
        self.waited = max([self.waited, *(op.ended - op.began for op in writes)])
        self.executed += sum(op.status != 503 for op in writes)
        began = time.monotonic()
        self.site.links.heal()
        resolve(old, winner, loser)
        note(f"{resolve.__name__}: {time.monotonic() - began:.1f} s")
        return ops + self._calm(f"after-{number}", 1.5)

    def _split(self, old: Region, *standbys: Region) -> None:
        """Nobody writes meanwhile: what an edge hears first it would follow, and rightly so."""
        with self.site.operating:
            old.kill()
            one, other = standbys
            self.site.links.cut((one.name, other.name), (other.name, one.name))
            for region in standbys:
                region.database.follow("")
            for region in standbys:
                region.database.until_detached()
            for region in standbys:
                region.database.promote()
                self.site.promotions.append((time.monotonic_ns(), region.name))

    def _demoted(self, old: Region, winner: Region, loser: Region) -> None:
        """One becomes a standby of the other. An edge that had heard of the other first goes on by
        itself; one that had taken this one for the primary stays closed, until it is told: it may
        have given out positions of what is gone.
        """
        self.site.primary = winner.name
        self.site.take_back(loser.name, rival=True)
        end = time.monotonic() + 10
        while loser.status().get("role") != "replica" and time.monotonic() < end:
            time.sleep(0.05)
        for edge in self.edges.values():
            mistaken = said(edge).region == loser.name
            end = time.monotonic() + (1 if mistaken else 10)
            while time.monotonic() < end and said(edge).state == "contested":
                time.sleep(0.02)
            state = said(edge).state
            if state != ("contested" if mistaken else "settled"):
                raise RuntimeError(f"{edge.name}, mistaken: {mistaken}, is {state}")
            if mistaken:
                self._name(edge, winner)
        self._whole_again(old)

    def _named(self, old: Region, winner: Region, loser: Region) -> None:
        """One of them is stopped, and the operator names the other one, at every edge."""
        self.site.primary = winner.name
        loser.kill()
        for edge in self.edges.values():
            self._name(edge, winner)
        self.until_settled(1)
        self.site.take_back(loser.name, rival=True)
        loser.start_application()
        self._whole_again(old)

    def _name(self, edge: Edge, region: Region) -> None:
        self.named[edge.name] += 1
        order = {"service": SERVICE, "region": region.name, "reason": "the other has given way"}
        status, text = admin.ask(edge.admin, "/api/v1/primary", "POST", json.dumps(order))
        if status != 200:
            raise RuntimeError(f"{edge.name}: {status} {text[:300]}")

    def _whole_again(self, old: Region) -> None:
        self.site.take_back(old.name, rival=True)
        old.start_application()
        self.site.until_whole()
        self.site.until_served()
        self.until_settled(10)

    def _until_contested(self, seconds: float = 10.0) -> None:
        """Every edge says so. RuntimeError if one does not."""
        end = time.monotonic() + seconds
        for edge in self.edges.values():
            while (sample := said(edge)).state != "contested":
                if time.monotonic() > end:
                    raise RuntimeError(f"{edge.name} does not say contested: {sample}")
                time.sleep(0.02)


def said(edge: Edge, seconds: float = 10.0) -> Sample:
    """What it says of the primary. RuntimeError if it says nothing."""
    end = time.monotonic() + seconds
    while (sample := edge.sample()) is None:
        if time.monotonic() > end:
            raise RuntimeError(f"{edge.name} does not answer")
        time.sleep(0.02)
    return sample


def refusals(edge: Edge) -> int:
    """Of writes and of reads that only a primary may answer, because two claim to be it."""
    status, text = admin.ask(edge.admin, "/metrics")
    if status != 200:
        raise RuntimeError(f"{edge.name} has no metrics: {status}")
    lines = [line for line in text.splitlines() if line.startswith(REFUSED) and CONTESTED in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)
