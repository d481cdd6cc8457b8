"""Debian's Patroni with etcd instead of an operator: it elects, promotes, takes back by itself."""

import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg

from lab import client
from lab.process import Child, descendants
from topology import ROOT, postgres
from topology.links import EDGES, REGIONS, address
from topology.postgres import DATABASE, PORT, Postgres, owned, unprivileged
from topology.site import Site, taking_part

FAMILY = ROOT / "tests" / "consistency" / "programs" / "family.py"
ETCD = "127.0.0.1:2379"
REST_PORT = 8008
# The least that Patroni takes: a leader that is gone is missed after this.
TTL_SECONDS, LOOP_SECONDS, RETRY_SECONDS = 20, 1, 3


def lacking() -> str | None:
    for program in ("patroni", "etcd"):
        if not shutil.which(program, path="/usr/bin:/usr/local/bin"):
            return f"{program} is not installed"
    return postgres.lacking()


def version() -> str:
    said = subprocess.run(["/usr/bin/patroni", "--version"], capture_output=True, text=True)
    return said.stdout.strip().removeprefix("patroni ")


class Member(Postgres):
    """A region's PostgreSQL under Patroni."""

    @property
    def rest(self) -> str:
        return f"{address(EDGES[0], self.region)}:{REST_PORT}"

    def start(self) -> None:
        place = f"127.0.{REGIONS.index(self.region) + 1}.10:{PORT}"
        settings = {
            "scope": "notes",
            "name": self.region,
            "restapi": {"listen": self.rest, "connect_address": self.rest},
            "etcd3": {"host": ETCD},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": LOOP_SECONDS,
                    "retry_timeout": RETRY_SECONDS,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": {"wal_log_hints": "on"}},
                },
                "initdb": [{"encoding": "UTF8"}, "no-sync"],
            },
            "postgresql": {
                "listen": place,
                "connect_address": place,
                "data_dir": str(self.data),
                "bin_dir": str(postgres.programs()),
                "pgpass": str(self.folder / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "postgres"},
                },
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.0/8 trust",
                    "host replication all 127.0.0.0/8 trust",
                ],
                "parameters": {
                    "unix_socket_directories": str(self.folder),
                    "fsync": "off",
                    "shared_buffers": "32MB",
                    "max_connections": "120",
                    "autovacuum": "off",
                },
            },
        }
        path = self.folder / "patroni.yml"
        path.write_text(json.dumps(settings))  # JSON is YAML
        path.chmod(0o644)
        # PostgreSQL leaves Patroni, and must not be left unburied: Patroni waits for its end.
        argv = [sys.executable, str(FAMILY), *unprivileged(), "/usr/bin/patroni", str(path)]
        env = {"HOME": str(self.folder)}
        self._child = Child(argv, self._cpus, env, self.folder / "log", cwd="/")

    def kill(self) -> None:
        """And buries what this process has inherited: Patroni takes the unburied for running."""
        family = descendants(self._child.pid) if self._child else []
        super().kill()
        end = time.monotonic() + 10
        while family and time.monotonic() < end:
            family = [pid for pid in family if is_unburied(pid)]
            time.sleep(0.01)

    def role(self) -> str:
        """As Patroni says it: "master", "replica", or nothing."""
        try:
            return json.loads(client.call(self.rest, "GET", "/patroni", timeout=2)[1])["role"]
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return ""


def is_unburied(pid: int) -> bool:
    """Whether a killed process that is this one's child now has still to be waited for."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return Path(f"/proc/{pid}").exists()


class PatroniSite(Site):
    def __init__(self, folder: Path, cpus: str) -> None:
        super().__init__(folder, cpus)
        for region in self.regions.values():
            region.database = Member(folder / region.name, region.name, cpus)
        self._etcd: Child | None = None

    def start(self) -> None:
        home = owned(self.folder / "etcd")
        argv = [
            *unprivileged(),
            "/usr/bin/etcd",
            *("--data-dir", str(home / "data"), "--unsafe-no-fsync"),
            *(
                "--listen-client-urls",
                f"http://{ETCD}",
                "--advertise-client-urls",
                f"http://{ETCD}",
            ),
            *("--listen-peer-urls", "http://127.0.0.1:2380"),
        ]
        self._etcd = Child(argv, self.cpus, log=self.folder / "etcd.log", cwd="/")
        first = self.regions[self.primary].database
        first.start()
        self._until(lambda: first.role() == "master", f"{first.region} does not become leader")
        for region in self.others():
            region.database.start()
        for region in self.others():
            self._until(lambda: region.database.role() == "replica", f"{region.name} is no replica")
        self._create(first)
        for region in self.regions.values():
            region.start_application()
        self.until_served()

    @staticmethod
    def _create(first: Member) -> None:
        first.sql(f"CREATE DATABASE {DATABASE}")
        with psycopg.connect(first.conninfo) as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute(taking_part.SCHEMA)

    @staticmethod
    def _until(is_so, problem: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end:
                raise RuntimeError(problem)
            time.sleep(0.1)

    def lose_leader(self) -> tuple[str, float]:
        """kill -9 of the leader's region. Who was promoted, and how many seconds it took."""
        old = self.primary
        begun = time.monotonic()
        watches = [Watch(region.name, region.database) for region in self.others()]
        self.regions[old].kill()
        self._until(lambda: any(watch.promoted_at for watch in watches), "nobody was promoted", 90)
        for watch in watches:
            watch.close()
        at, name = min((watch.promoted_at, watch.name) for watch in watches if watch.promoted_at)
        self.promotions.append((at, name))
        self.primary = name
        return name, time.monotonic() - begun

    def take_back(self, name: str) -> None:
        """Patroni rewinds it."""
        region = self.regions[name]
        region.database.start()
        self._until(lambda: region.database.role() == "replica", f"{name} does not come back")
        region.start_application()

    def stop(self) -> None:
        super().stop()
        if self._etcd:
            self._etcd.kill()


class Watch:
    """Asks a standby over and over whether it is one, until it is none."""

    def __init__(self, name: str, database: Postgres) -> None:
        self.name = name
        self.promoted_at = 0
        self._closed = threading.Event()
        self._connection = psycopg.connect(database.conninfo, autocommit=True)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(0.002):
            if not self._connection.execute("SELECT pg_is_in_recovery()").fetchone()[0]:
                self.promoted_at = time.monotonic_ns()
                return

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)
        self._connection.close()
