"""What a run consists of: each part builds regions and edges anew, and gives figures and checks."""

import random
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import nemeses
from harness import judge
from harness.judge import Check
from judging.history import History, Op
from judging.invariants import INVARIANTS, Violation, seen_early, violations
from topology.crowd import Crowd
from topology.edge import ROUTE_BOUND_MS, Edge, Sampler, Settings
from topology.links import EDGES
from topology.site import Site

CALM_SECONDS = 3.0  # after a nemesis, until nothing may fail any more


@dataclass(frozen=True)
class Plan:
    name: str
    operations: int  # of the history, at least
    seconds: float  # of the history, at most
    rounds: int  # of the history without fencing
    nemeses: list


SHORT = Plan("short", 4_000, 75, 1, nemeses.SHORT)
WHOLE = Plan("whole", 100_000, 1500, 3, nemeses.NEMESES)


@dataclass(frozen=True)
class Setting:
    """Where a part takes place."""

    binary: str
    folder: Path
    cpus: str
    plan: Plan
    seed: int


class Part(ABC):
    name = ""
    title = ""
    short = True  # also in the short suite
    fencing = True
    delays: dict[tuple[str, str], int] = {}
    edge_settings = Settings()

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.folder = setting.folder / self.name
        self.dice = random.Random(f"{setting.seed} {self.name}")
        self.figures: dict = {}

    def lacking(self) -> str | None:
        return None

    def tried(self) -> list[Check]:
        """Builds everything, runs, and takes everything away again."""
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self.site = self.make_site()
        self.edges = {name: self._edge(name) for name in self.edge_names()}
        self.crowds: list[Crowd] = []
        self.samplers: list[Sampler] = []
        try:
            self.site.start()
            for edge in self.edges.values():
                edge.start()
            self.until_settled(30)
            return self.run()
        except Exception:
            self.keep_logs()
            raise
        finally:
            for crowd in self.crowds:
                crowd.stop()
            for sampler in self.samplers:
                sampler.close()
            for edge in self.edges.values():
                edge.kill()
            self.site.stop()

    @abstractmethod
    def run(self) -> list[Check]: ...

    def make_site(self) -> Site:
        return Site(self.folder, self.setting.cpus, self.fencing, self.delays)

    def edge_names(self) -> tuple[str, ...]:
        return EDGES

    def _edge(self, name: str) -> Edge:
        # Each edge is nearer to a replica than to the primary: reads have to be right there.
        nearest = ("r2", "r3", "r1") if name == EDGES[0] else ("r3", "r1", "r2")
        settings = replace(self.edge_settings, nearest=nearest)
        return Edge(name, self.setting.binary, self.folder, self.setting.cpus, settings)

    def until_settled(self, seconds: float) -> None:
        """Every edge knows the primary. RuntimeError if it does not come to be."""
        end = time.monotonic() + seconds
        for edge in self.edges.values():
            while True:
                sample = edge.sample()
                if sample and (sample.state, sample.region) == ("settled", self.site.primary):
                    break
                if time.monotonic() > end:
                    raise RuntimeError(f"{edge.name} does not find the primary: {sample}")
                time.sleep(0.05)

    def crowd(self, name: str, **order) -> Crowd:
        known = {"edges": {edge.name: edge.address for edge in self.edges.values()}}
        known["seed"] = self.setting.seed
        crowd = Crowd(self.folder, self.setting.cpus, name, known | order)
        self.crowds.append(crowd)
        return crowd

    def watch(self) -> None:
        self.samplers = [Sampler(edge) for edge in self.edges.values()]

    def history(self, ops: list[Op]) -> History:
        """When everything has come together again."""
        history = History(ops=ops, route_bound_ms=ROUTE_BOUND_MS)
        for sampler in self.samplers:
            history.samples += sampler.close()
        for region in self.site.regions.values():
            arrivals, backends = region.seen()
            history.arrivals += arrivals
            history.backends += backends
        history.applied = self.site.applied()
        history.troubles = self.site.troubles
        return history

    def keep_logs(self) -> None:
        """For whoever looks at a failure: the last run's, where its temporary folder was."""
        target = Path("target/consistency") / self.name
        shutil.rmtree(target, ignore_errors=True)
        for file in self.folder.rglob("*"):
            wanted = file.suffix in {".log", ".toml", ".journal", ".ops"} or file.name == "log"
            if file.is_file() and wanted and "data" not in file.parts:
                kept = target / file.relative_to(self.folder)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, kept)


class Faults(Part):
    """Sessions at two edges while one thing after the other goes wrong."""

    name = "history"
    title = "Two edges, one nemesis after the other"

    def run(self) -> list[Check]:
        self.watch()
        crowd = self.crowd("c")
        self.calm: list[tuple[int, int]] = []
        begun = time.monotonic()
        self._strike(crowd, begun + self.setting.plan.seconds)
        self.until_settled(20)
        ops = crowd.finish()
        self.site.until_whole()
        history = self.history(ops)
        found = violations(history)
        self._measure(history, found, time.monotonic() - begun)
        if found or self.figures["failed_in_calm"]:
            self.keep_logs()
            history.save(Path("target/consistency") / self.name / "history.json")
        return self._checks(history)

    def _strike(self, crowd: Crowd, end: float) -> None:
        field = nemeses.Field(self.site, self.edges, self.dice)
        deck: list = []
        struck: Counter = Counter()
        self._begin_calm()
        crowd.wait(CALM_SECONDS)
        while not self._is_done(end, struck):
            if not deck:
                deck = nemeses.possible(self.setting.plan.nemeses)
                self.dice.shuffle(deck)
            nemesis = deck.pop()
            self._end_calm()
            struck[nemesis.__name__] += 1
            began = time.monotonic()
            nemesis(field)
            note(
                f"{nemesis.__name__}, {time.monotonic() - began:.1f} s; epoch, state of the edges:"
                f" {[(s.epoch, s.state) for s in map(Edge.sample, self.edges.values()) if s]}"
            )
            self.site.until_whole()
            self.until_settled(20)
            crowd.wait(CALM_SECONDS)
            self._begin_calm()
            crowd.wait(1)
            if not crowd.is_running():
                raise RuntimeError("the clients have ended")
        self._end_calm()
        self.figures["nemeses"] = dict(sorted(struck.items()))

    def _is_done(self, end: float, struck: Counter) -> bool:
        """Enough requests, and every nemesis has struck; or the time is over."""
        every = set(map(lambda each: each.__name__, nemeses.possible(self.setting.plan.nemeses)))
        enough = self._lines() >= self.setting.plan.operations
        return (enough and every <= set(struck)) or time.monotonic() > end

    def _lines(self) -> int:
        with (self.folder / "c.ops").open() as file:
            return sum(1 for _ in file)

    def _begin_calm(self) -> None:
        self._calm_since = time.monotonic_ns()

    def _end_calm(self) -> None:
        self.calm.append((self._calm_since, time.monotonic_ns()))

    def _measure(self, history: History, found: list[Violation], seconds: float) -> None:
        ops = history.ops
        writes = [op for op in ops if op.kind == "write"]
        reads = [op for op in ops if op.kind == "read"]
        failed = [op for op in ops if op.status not in (200, 201, 404)]
        in_calm = [
            op
            for op in failed
            if any(began <= op.began and op.ended <= ended for began, ended in self.calm)
        ]
        broken = Counter(violation.invariant for violation in found)
        self.figures |= {
            "seconds": round(seconds, 1),
            "operations": len(ops),
            "writes": len(writes),
            "acknowledged": sum(op.is_acknowledged for op in writes),
            "reads": len(reads),
            "failed_reads": sum(op.kind == "read" for op in failed),
            "failed": causes(failed),
            "failed_in_calm": len(in_calm),
            "failed_in_calm_examples": [str(op) for op in in_calm[:5]],
            "promotions": len(self.site.promotions),
            "epochs": len({row.epoch for row in history.applied}),
            "refused_421": sum(arrival.status == 421 for arrival in history.arrivals),
            "samples": len(history.samples),
            "unsettled_samples": sum(sample.state != "settled" for sample in history.samples),
            "seen_early": len(seen_early(history)),
            "violations": {str(number): broken[number] for number in INVARIANTS},
            "examples": [f"{each.invariant}: {each.text}" for each in spread(found)],
        }

    def _checks(self, history: History) -> list[Check]:
        seen = self.figures
        enough = self.setting.plan.operations
        checks = [judge.at_least("operations", seen["operations"], enough)]
        checks += [
            judge.none(f"violations of invariant {number}", seen["violations"][str(number)])
            for number in INVARIANTS
        ]
        checks.append(judge.none("failed with nothing wrong", seen["failed_in_calm"]))
        checks.append(judge.at_least("promotions", seen["promotions"], 1))
        return checks


def note(text: str) -> None:
    print(f"    {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def causes(failed: list[Op]) -> dict[str, int]:
    """How often what failed, by who said so: the application's errors name a class of psycopg."""
    return dict(Counter(f"{op.kind}: {op.cause or op.status}"[:120] for op in failed))


def spread(found: list[Violation], most: int = 4) -> list[Violation]:
    """Some of each invariant."""
    seen: Counter = Counter()
    chosen = []
    for violation in found:
        seen[violation.invariant] += 1
        if seen[violation.invariant] <= most:
            chosen.append(violation)
    return chosen


class Unfenced(Faults):
    """The same with the application's fencing switched off: it must not go well."""

    name = "unfenced"
    title = "The same with fencing switched off in the application: must be found out"
    fencing = False

    def lacking(self) -> str | None:
        return nemeses.Links.lacking()

    def _strike(self, crowd: Crowd, end: float) -> None:
        field = nemeses.Field(self.site, self.edges, self.dice)
        self._begin_calm()
        self._end_calm()
        crowd.wait(2)
        for _ in range(self.setting.plan.rounds):
            nemeses.cut_edge_off(field)
            self.site.until_whole()
            crowd.wait(2)
        self.figures["nemeses"] = {"cut_edge_off": self.setting.plan.rounds}

    def _checks(self, history: History) -> list[Check]:
        broken = self.figures["violations"]
        found = broken["1"] + broken["3"] + broken["4"]
        return [judge.at_least("violations of the invariants 1, 3 and 4 that were found", found, 1)]
