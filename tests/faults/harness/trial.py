"""One fault against one proxy: backends, proxy and load are started, calm time passes, the fault
strikes and heals, and what everybody saw is laid side by side.
"""

import time
from collections.abc import Callable
from pathlib import Path

from edges.base import Edge, Running, Settings, Site
from harness import judge, sandbox, wire
from harness.judge import Check
from harness.plan import Plan
from harness.reconcile import (
    SECOND,
    Applied,
    Asked,
    Reconciliation,
    latencies,
    reconcile,
    recovery,
)
from harness.traffic import BYSTANDER, DIRECT, GETS, POSTS, Flow, Load
from harness.wire import Sighting, Wire
from harness.world import Backends, Endpoint, Region, endpoints_of
from lab import ports
from lab.load import percentile

WARM_UP_SECONDS = 0.5
SLOW_MS = 250.0  # a slower request counts as disturbed
QUIET_SECONDS = 5.0  # at most, until the endpoints have nothing more to do


class Trial:
    """In this order: `start`, then `calm`, `strike`, `hold`, `heal`, `settle`, then `finish`."""

    def __init__(
        self, edge: Edge, plan: Plan, folder: Path, regions: tuple[Region, ...], cpus: str
    ) -> None:
        self.edge, self.plan, self.folder = edge, plan, folder
        found = ports.free_ports(3 + sum(region.endpoints for region in regions))
        endpoints = endpoints_of(regions, found[2:])
        address, admin = (f"127.0.0.1:{port}" for port in found[:2])
        self.site = Site(folder, address, admin, regions, endpoints, cpus)
        self.backends = Backends(folder, endpoints, cpus)
        self.running: Running | None = None
        self.figures: dict = {}
        self.began_at = self.calm_ended_at = self.fault_at = self.healed_at = self.ended_at = 0
        self.faults: list[int] = []  # when it struck, if more than once
        self.asked: list[Asked] = []
        self.applied: list[Applied] = []
        self.sightings: list[Sighting] = []
        self._wire: Wire | None = None
        self._loads: list[Load] = []

    @property
    def api(self) -> list[Endpoint]:
        return self.site.of("api")

    # ------------------------------------------------------------------ what happens

    def start(
        self,
        settings: Settings,
        flows: tuple[Flow, ...] = (GETS, POSTS),
        patience: float | None = None,
    ) -> None:
        """`patience`: seconds that clients wait, other than the plan's."""
        self.backends.start()
        self.running = self.edge.start(self.site, settings)
        if sandbox.lacks("packets") is None:
            self._wire = Wire([endpoint.port for endpoint in self.site.endpoints])
        direct = self.site.of("bystander")[0].address
        for name, target, some in (
            ("main", self.site.address, list(flows)),
            ("beside", self.site.address, [BYSTANDER]),
            ("direct", direct, [DIRECT]),
        ):
            waits = self.plan.patience if patience is None else patience
            load = Load(name, target, self.folder, self.site.cpus, some, waits)
            self._loads.append(load)

    def calm(self) -> None:
        time.sleep(WARM_UP_SECONDS)
        self.began_at = time.monotonic_ns()
        time.sleep(self.plan.calm)
        self.calm_ended_at = time.monotonic_ns()

    def strike(self, act: Callable[[], object] | None = None) -> None:
        """The first time begins what is looked at as the fault; it may strike again."""
        self.faults.append(time.monotonic_ns())
        self.fault_at = self.faults[0]
        if act:
            act()

    def hold(self, seconds: float | None = None) -> None:
        time.sleep(self.plan.hold if seconds is None else seconds)

    def heal(self, act: Callable[[], object] | None = None) -> None:
        self.healed_at = time.monotonic_ns()
        if act:
            act()

    def settle(self, seconds: float | None = None) -> None:
        time.sleep(self.plan.settle if seconds is None else seconds)

    def finish(self) -> None:
        """Lets the clients end, then reads all journals."""
        self.ended_at = time.monotonic_ns()
        self.asked = [request for load in self._loads for request in load.finish()]
        self._loads = []
        self.backends.until_quiet(QUIET_SECONDS)
        self.applied = self.backends.applied()
        self.sightings = self._wire.close() if self._wire else []
        self._wire = None
        self.figures["still_runs"] = int(self.running.is_running())

    def close(self) -> None:
        for load in self._loads:
            load.abandon()
        if self._wire:
            self._wire.close()
        if self.running:
            self.running.stop()
        self.backends.stop()

    # ------------------------------------------------------------------ what was seen

    def of(self, *kinds: str) -> list[Asked]:
        return [request for request in self.asked if request.kind in kinds]

    def reconciled(self) -> Reconciliation:
        """The main load; crowds are no part of it."""
        main = self.of("get", "post")
        known = {request.identity for request in main}
        return reconcile(main, [entry for entry in self.applied if entry.identity in known])

    def late_posts(self, excused: float) -> int:
        """Failed POSTs, but for those under way at the fault or begun within `excused` s of it."""
        end = self.fault_at + int(excused * SECOND)
        failed = self.reconciled().failed_posts
        return sum(not (post.began < end and post.ended > self.fault_at) for post in failed)

    def ejection(self, victims: list[Endpoint], connects_only: bool = False) -> float | None:
        """Seconds until nothing but probes went to the victims."""
        if sandbox.lacks("packets"):
            return None
        ports_of = {victim.port for victim in victims}
        seen = [each for each in self.sightings if each.what == "connect" or not connects_only]
        last = wire.last_traffic(seen, ports_of, self.fault_at, self.healed_at)
        return (last - self.fault_at) / SECOND if last else 0.0

    def p99(self, kind: str) -> tuple[float | None, float | None]:
        """Milliseconds: before the fault, and while it lasted."""
        requests = self.of(kind)
        # What was due before the fault and answered after it belongs to neither.
        calm = [request for request in requests if request.ended < self.calm_ended_at]
        before = latencies(calm, self.began_at, self.calm_ended_at)
        during = latencies(requests, self.fault_at, self.healed_at or self.ended_at)
        return percentile(before, 0.99), percentile(during, 0.99)

    def measure(self, victims: list[Endpoint]) -> None:
        """The figures that every row has."""
        found = self.reconciled()
        quiet, during = self.p99("bystander")
        main = self.of("get", "post")
        twice = None
        if sandbox.lacks("packets") is None:
            twice = wire.sent_twice(self.sightings, {request.identity for request in main})
        self.figures |= {
            "gets": found.gets,
            "failed_gets": len(found.failed_gets),
            "posts": found.posts,
            "failed_posts": len(found.failed_posts),
            "lost": len(found.lost),
            "given_up": len(found.given_up),
            "vanished": len(found.vanished),
            "doubled_posts": len(found.doubled),
            "posts_sent_twice": None if twice is None else len(twice),
            "causes": found.causes(),
            "ejection_s": rounded(self.ejection(victims)) if victims else None,
            "recovery_s": rounded(recovery(main, self.faults, SLOW_MS)),
            "bystanders": len(self.of("bystander")),
            "bystander_failed": sum(request.failed for request in self.of("bystander")),
            "bystander_quiet_p99_ms": rounded(quiet),
            "bystander_p99_ms": rounded(during),
            "direct_p99_ms": rounded(self.p99("direct")[1]),
            "p99_ms": rounded(
                percentile(latencies(main, self.fault_at, self.healed_at or self.ended_at), 0.99)
            ),
        }

    # ------------------------------------------------------------------ what must hold

    def nothing_applied_wrongly(self) -> list[Check]:
        seen = self.figures
        return [
            judge.at_least("requests that were sent", seen["gets"] + seen["posts"], 100),
            judge.none("POSTs applied twice", seen["doubled_posts"]),
            judge.none("POSTs sent to endpoints twice", seen["posts_sent_twice"]),
            judge.none("answered and never applied", seen["vanished"]),
            judge.at_least("the proxy still runs", seen["still_runs"], 1),
        ]

    def no_failed_get(self) -> list[Check]:
        return [judge.none("failed GETs", self.figures["failed_gets"])]

    def posts_fail_only_under_way(self, excused: float) -> list[Check]:
        late = self.late_posts(excused)
        self.figures["late_failed_posts"] = late
        return [
            judge.none(f"failed POSTs begun more than {excused:g} s after the fault", late),
            judge.none("neither answer nor honest error", self.figures["lost"]),
        ]

    def no_failed_post(self) -> list[Check]:
        return [judge.none("failed POSTs", self.figures["failed_posts"])]

    def bystander_is_undisturbed(self) -> list[Check]:
        quiet, during = self.p99("bystander")
        direct = self.p99("direct")[1]
        bound = rounded(judge.p99_bound(quiet, direct, self.plan.p99_floor_ms))
        return [
            judge.none("failed requests of the bystander", self.figures["bystander_failed"]),
            judge.at_most("p99 of the bystander", rounded(during), bound, " ms"),
        ]


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
