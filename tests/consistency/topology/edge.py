"""Meridian before the regions, as often as asked: started, killed, reloaded, upgraded, asked."""

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from harness import admin
from judging.history import Sample
from lab.process import Child
from topology.links import EDGES, REGIONS, address
from topology.site import APPLICATION_PORT

START_SECONDS = 20.0
SAMPLE_SECONDS = 0.05
SERVICE = "notes"
ROUTE_BOUND_MS = 60_000
PRIMARY_ROUTE = (
    'path_prefix = "/primary"',
    'access = "read_primary"',
    'strip_prefix = "/primary"',
)


@dataclass(frozen=True)
class Settings:
    """What a part wants otherwise than usual."""

    nearest: tuple[str, ...] = ()  # the order in which regions are preferred for reads
    primary: str = "r1"
    workers: int = 2
    source: str = 'source = "status"'
    failover: str = 'mode = "follow"'
    moves: bool = False  # regions are candidates of a switchover


class Edge:
    """One of the edges. Both have the same key for tokens."""

    def __init__(self, name: str, binary: str, folder: Path, cpus: str, settings: Settings) -> None:
        self.name, self.binary, self.settings = name, os.path.realpath(binary), settings
        place = f"127.0.9.{EDGES.index(name) + 1}"
        self.address, self.admin = f"{place}:8080", f"{place}:9901"
        self._folder, self._cpus = folder / name, cpus
        self._folder.mkdir()
        self._config = self._folder / "meridian.toml"
        self._edition = 0
        self._child: Child | None = None

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        self.write()
        argv = [self.binary, "run", "--config", str(self._config)]
        self._child = Child(argv, self._cpus, log=self._folder / "log")
        end = time.monotonic() + START_SECONDS
        while not admin.is_ready(self.admin):
            if not self._child.is_running() or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not start: {self.said()[-1500:]}")
            time.sleep(0.02)

    def said(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def processes(self) -> list[int]:
        """By its configuration's path: after upgrades nobody is its child any more."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self._config).encode() in arguments and arguments[0] == self.binary.encode():
                found.append(int(folder.name))
        return sorted(found)

    def kill(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        if self._child:
            self._child.kill()
        while self.processes():
            time.sleep(0.01)

    def reload(self) -> None:
        """Another configuration. RuntimeError if it is not in force afterwards."""
        self._edition += 1
        self.write()
        status, text = admin.ask(self.admin, "/api/v1/reload", "POST")
        if status != 200:
            raise RuntimeError(f"{self.name} does not reload: {text[:300]}")

    def upgrade(self) -> None:
        argv = [self.binary, "upgrade", "--admin", self.admin]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(
                f"{self.name} upgrade: {(done.stderr or done.stdout).strip()[-300:]}"
            )

    # ------------------------------------------------------------------ configuration

    def write(self) -> None:
        new = self._folder / "new.toml"
        new.write_text(self.configuration())
        new.rename(self._config)

    def configuration(self) -> str:
        order = self.settings.nearest or REGIONS
        secret = self._folder.parent / "session.key"
        if not secret.exists():
            secret.write_text(os.urandom(32).hex() + "\n")
            secret.chmod(0o600)
        regions = "".join(
            f'[[regions]]\nid = "{region}"\npriority = {order.index(region) + 1}\n'
            f'role = "{"primary" if region == self.settings.primary else "replica"}"\n'
            + (f"failover_order = {number + 1}\n\n" if self.settings.moves else "\n")
            for number, region in enumerate(REGIONS)
        )
        endpoints = "".join(
            f'[[services.endpoints]]\nregion = "{region}"\nweight = {100 + self._edition % 3}\n'
            f'address = "{address(self.name, region)}:{APPLICATION_PORT}"\n\n'
            for region in REGIONS
        )
        return f"""
[edge]
id = "{self.name}"
state_dir = "{self._folder / "state"}"
worker_threads = {self.settings.workers}
session_secret_file = "{secret}"

[[listeners]]
name = "public"
address = "{self.address}"
protocols = ["http1"]

[admin]
address = "{self.admin}"

[shutdown]
lame_duck = "0s"
grace = "10s"

[access_log]
output = "{self._folder / "access.log"}"

{regions}
[[services]]
name = "{SERVICE}"
policy = "priority"

[services.health]
path = "/health"

[services.timeouts]
first_byte = "8s"
request = "12s"

[services.replication]
{self.settings.source}
interval = "200ms"
max_lag = "60s"
sample_max_age = "2s"

[services.failover]
{self.settings.failover}
write_park = {{ requests = 1000, bytes = "16MiB", time = "8s" }}

{endpoints}
{self._route("primary", *PRIMARY_ROUTE)}
{self._route("notes", 'path_prefix = "/"', "read_your_writes = true")}
"""

    def _route(self, name: str, *lines: str) -> str:
        more = "\n".join(lines)
        return f"""[[routes]]
name = "{name}"
service = "{SERVICE}"
max_staleness = "{ROUTE_BOUND_MS}ms"
expose_decision = true
request_headers = {{ set = {{ X-Edge = "{self.name}" }}, remove = [] }}
{more}
"""

    # ------------------------------------------------------------------ asking it

    def sample(self) -> Sample | None:
        """What it says of the primary; None if it does not answer."""
        asked = time.monotonic_ns()
        try:
            status, text = admin.ask(self.admin, "/api/v1/services")
            found = primacy_in(json.loads(text)) if status == 200 else None
        except (OSError, ValueError):
            return None
        if found is None:
            return None
        return Sample(
            asked,
            time.monotonic_ns(),
            self.name,
            found["epoch"],
            found["state"],
            found.get("region") or "",
            found.get("since_unix_ms", 0),
        )


def primacy_in(answer) -> dict | None:
    """The first object that tells epoch and state."""
    if isinstance(answer, dict):
        if isinstance(answer.get("epoch"), int) and isinstance(answer.get("state"), str):
            return answer
        answer = list(answer.values())
    if isinstance(answer, list):
        for each in answer:
            if found := primacy_in(each):
                return found
    return None


class Sampler:
    """Asks an edge over and over, on a thread."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self.samples: list[Sample] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(SAMPLE_SECONDS):
            if sample := self._edge.sample():
                self.samples.append(sample)

    def close(self) -> list[Sample]:
        self._closed.set()
        self._thread.join(10)
        return self.samples
