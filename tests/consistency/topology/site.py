"""Three regions, each a database with the example application before it, and what an operator of
such databases does: fail over, switch over, take an old primary back.

The rules that make a failover safe are those of docs/taking-part.md: the standbys are taken from
the old primary before one of them is promoted, the one that is ahead is taken, and where the old
primary may live its lease is waited for.
"""

import http.client
import json
import signal
import sys
import threading
import time
from contextlib import contextmanager
from collections.abc import Iterator
from pathlib import Path

import psycopg

from judging.history import Applied, Arrival, BackendEpoch, Trouble, arrivals_of
from lab import client
from lab.process import Child
from topology import ROOT
from topology.links import EDGES, REGIONS, Links, address
from topology.postgres import DATABASE, Postgres

sys.path.append(str(ROOT / "docs" / "examples"))

import taking_part  # noqa: E402

PROGRAM = ROOT / "tests" / "consistency" / "programs" / "region.py"
APPLICATION_PORT = 3000
# Longer than the lease, by what an edge takes to hear that it has run out.
LEASE_WAIT_SECONDS = taking_part.LEASE_SECONDS + 1.0


class Region:
    def __init__(self, site: "Site", name: str) -> None:
        self.name = name
        self._site = site
        self.database = Postgres(site.folder / name, name, site.cpus)
        self.journal = site.folder / f"{name}.journal"
        self._child: Child | None = None

    def start_application(self) -> None:
        places = []
        for edge in EDGES:
            delay = self._site.delays.get((edge, self.name), 0)
            place = f"{address(edge, self.name)}:{APPLICATION_PORT}"
            places.append(f"{place}={delay}" if delay else place)
        conninfo = self.database.conninfo
        argv = [sys.executable, str(PROGRAM), self.name, conninfo, str(self.journal)]
        argv += [",".join(places), *([] if self._site.fencing else ["--no-fencing"])]
        self._child = Child(argv, self._site.cpus, log=self._site.folder / f"{self.name}.log")

    def said(self) -> str:
        return (self._site.folder / f"{self.name}.log").read_text(errors="replace")[-1500:]

    def status(self) -> dict:
        """What its application says at the status path; nothing if it does not."""
        place = f"{address(EDGES[0], self.name)}:{APPLICATION_PORT}"
        try:
            status, text = client.call(place, "GET", "/meridian/status", timeout=2)
            return json.loads(text) if status == 200 else {}
        except (OSError, http.client.HTTPException):
            return {}

    def kill_application(self) -> None:
        if self._child:
            self._child.kill()

    def freeze(self) -> None:
        self._child.signal(signal.SIGSTOP)
        self.database.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.database.signal(signal.SIGCONT)
        self._child.signal(signal.SIGCONT)

    def kill(self) -> None:
        """The whole region, as when its power goes."""
        self.kill_application()
        self.database.kill()

    def stop(self) -> None:
        if self._child:
            self.thaw()
            self._child.stop()
        self.database.kill()

    def seen(self) -> tuple[list[Arrival], list[BackendEpoch]]:
        if not self.journal.exists():
            return [], []
        return arrivals_of(self.name, self.journal.read_text().splitlines())


class Site:
    """The regions. One of them is the primary, as far as the operator knows."""

    def __init__(
        self,
        folder: Path,
        cpus: str,
        fencing: bool = True,
        delays: dict[tuple[str, str], int] | None = None,
    ) -> None:
        self.folder, self.cpus, self.fencing = folder, cpus, fencing
        self.delays = delays or {}  # milliseconds, by edge and region
        self.links = Links()
        self.regions = {name: Region(self, name) for name in REGIONS}
        self.primary = REGIONS[0]
        self.promotions: list[tuple[int, str]] = []  # when it was done, and of whom
        self.troubles: list[Trouble] = []
        self.operating = threading.RLock()  # one change of the databases at a time

    def start(self) -> None:
        first = self.regions[self.primary].database
        first.create()
        first.start()
        first.sql(f"CREATE DATABASE {DATABASE}")
        with psycopg.connect(first.conninfo) as connection:
            # Nobody can confirm yet.
            connection.execute("SET synchronous_commit = local")
            connection.execute(taking_part.SCHEMA)
        for region in self.others():
            region.database.copy(self.primary)
            region.database.start()
        for region in self.regions.values():
            region.start_application()
        self.until_served()

    def until_served(self, seconds: float = 20.0) -> None:
        """Every application answers, and the primary's has its lease."""
        end = time.monotonic() + seconds
        for name, region in self.regions.items():
            wanted = "primary" if name == self.primary else "replica"
            while region.status().get("role") != wanted:
                if time.monotonic() > end:
                    raise RuntimeError(f"the application of {name} is no {wanted}: {region.said()}")
                time.sleep(0.05)

    def stop(self) -> None:
        self.links.heal()
        for region in self.regions.values():
            region.stop()

    def others(self) -> list[Region]:
        return [region for name, region in self.regions.items() if name != self.primary]

    @contextmanager
    def trouble(self, *regions: str) -> Iterator[None]:
        """What is sent to these in this time may arrive later."""
        began = time.monotonic_ns()
        try:
            yield
        finally:
            ended = time.monotonic_ns()
            self.troubles += [Trouble(region, began, ended) for region in regions]

    # ------------------------------------------------------------------ operating

    def fail_over(self, may_live: bool, wanted: str = "") -> str:
        """To the standby that is ahead, to `wanted` if that is no less. Returns the new primary."""
        with self.operating:
            standbys = self.others()
            for region in standbys:
                region.database.resume_replay()
                region.database.follow("")
            for region in standbys:
                region.database.until_detached()
            if may_live and self.fencing:
                time.sleep(LEASE_WAIT_SECONDS)
            ahead = max(region.database.received() for region in standbys)
            best = [region for region in standbys if region.database.received() == ahead]
            chosen = next((each for each in best if each.name == wanted), best[0])
            self._promote(chosen, standbys)
            return chosen.name

    def _promote(self, chosen: Region, standbys: list[Region]) -> None:
        chosen.database.promote()
        self.promotions.append((time.monotonic_ns(), chosen.name))
        self.primary = chosen.name
        for region in standbys:
            if region is not chosen:
                region.database.follow(chosen.name)

    def switch_over(self, wanted: str) -> None:
        """In good order: the old primary ends when its standbys have all of it, then it follows."""
        with self.operating:
            old, chosen = self.regions[self.primary], self.regions[wanted]
            old.database.sql("CHECKPOINT", seconds=30)  # so that the end is quick
            old.database.stop()
            end = time.monotonic() + 10
            while chosen.database.replayed() < chosen.database.received():
                if time.monotonic() > end:
                    raise RuntimeError(f"{wanted} does not replay what it has")
                time.sleep(0.01)
            self._promote(chosen, [each for each in self.others() if each is not old])
            self.take_back(old.name)

    def take_back(self, name: str, rival: bool = False) -> None:
        """An old primary becomes a standby. A rival has a timeline of the same number as the
        primary: pg_rewind takes it for the same one and rewinds nothing.
        """
        with self.operating:
            region = self.regions[name]
            region.database.kill()
            self.regions[self.primary].database.sql("CHECKPOINT", seconds=30)
            if rival:
                region.database.copy(self.primary)
            else:
                region.database.rewind(self.primary)
            region.database.start()
            region.database.until_streaming()

    def until_whole(self, seconds: float = 60.0) -> None:
        """Two standbys that have all, replayed. RuntimeError if that does not come to be."""
        end = time.monotonic() + seconds
        sql = (
            "SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming' AND"
            " replay_lsn >= pg_current_wal_flush_lsn() - 65536"
        )
        while not self.regions[self.primary].database.sql(sql)[0][0]:
            if time.monotonic() > end:
                raise RuntimeError("the regions do not come together again")
            time.sleep(0.05)

    # ------------------------------------------------------------------ what was done

    def applied(self) -> list[Applied]:
        """The rows of the primary. RuntimeError if a standby ends up with others."""
        with self.operating:
            sql = "SELECT id, key, version, region, epoch FROM applied ORDER BY id, version"
            database = self.regions[self.primary].database
            database.sql("SELECT pg_switch_wal()")
            rows = database.sql(sql, dbname=DATABASE, seconds=60)
            for region in self.others():
                self._same(region, sql, rows)
        return [Applied(*row) for row in rows]

    @staticmethod
    def _same(region: Region, sql: str, rows: list) -> None:
        end = time.monotonic() + 20
        while region.database.sql(sql, dbname=DATABASE, seconds=60) != rows:
            if time.monotonic() > end:
                raise RuntimeError(f"{region.name} does not have what the primary has")
            time.sleep(0.2)
