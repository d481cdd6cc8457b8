"""Regions and endpoints, and the processes that are the endpoints."""

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import reconcile
from lab.backend import wait_until_open
from lab.process import Child

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "backend.py"


@dataclass(frozen=True)
class Region:
    name: str
    role: str
    endpoints: int
    priority: int


# One region, so that nginx and HAProxy, which know no regions, have the same to do.
POOL = (Region("us-east-1", "primary", 3, 1),)
# Reads go to the first, writes to the last.
REGIONS = (
    Region("eu-west-1", "replica", 2, 1),
    Region("ap-southeast-1", "replica", 1, 2),
    Region("us-east-1", "primary", 2, 3),
)


@dataclass(frozen=True)
class Endpoint:
    name: str
    region: str
    service: str  # "api", or "bystander": one endpoint that no fault touches
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def endpoints_of(regions: tuple[Region, ...], ports: list[int]) -> list[Endpoint]:
    """The bystander's is the last. There must be a port for each, and one more."""
    found = []
    for region in regions:
        for number in range(region.endpoints):
            address = f"127.0.0.1:{ports[len(found)]}"
            found.append(Endpoint(f"{region.name}-{number}", region.name, "api", address))
    address = f"127.0.0.1:{ports[len(found)]}"
    return [*found, Endpoint("bystander-0", regions[-1].name, "bystander", address)]


class Backends:
    """The endpoints as processes, each with a journal of what it applied."""

    def __init__(self, folder: Path, endpoints: list[Endpoint], cpus: str) -> None:
        self._folder, self._cpus = folder, cpus
        self.endpoints = endpoints
        self._children: dict[Endpoint, Child] = {}

    def start(self, *endpoints: Endpoint) -> None:
        """All of them if none is named. RuntimeError if one does not accept."""
        wanted = endpoints or tuple(self.endpoints)
        for endpoint in wanted:
            argv = [
                sys.executable,
                str(PROGRAM),
                endpoint.name,
                endpoint.address,
                str(self._journal(endpoint)),
            ]
            log = self._folder / f"{endpoint.name}.log"
            self._children[endpoint] = Child(argv, self._cpus, log=log)
        for endpoint in wanted:
            if not wait_until_open(endpoint.address, self._children[endpoint]):
                raise RuntimeError(f"endpoint {endpoint.name} did not start")

    def kill(self, *endpoints: Endpoint) -> None:
        for endpoint in endpoints:
            self._children[endpoint].popen.kill()
        for endpoint in endpoints:
            self._children[endpoint].kill()

    def freeze(self, endpoint: Endpoint) -> None:
        self._children[endpoint].signal(signal.SIGSTOP)

    def thaw(self, endpoint: Endpoint) -> None:
        self._children[endpoint].signal(signal.SIGCONT)

    def stop(self) -> None:
        for child in self._children.values():
            child.signal(signal.SIGCONT)
            child.kill()

    def applied(self) -> list["reconcile.Applied"]:
        """What all of them did so far."""
        found = []
        for endpoint in self.endpoints:
            journal = self._journal(endpoint)
            if not journal.exists():
                continue
            for line in journal.read_text().splitlines():
                at, identity, method = line.split(" ")
                found.append(reconcile.Applied(int(at), identity, method, endpoint.name))
        return found

    def until_quiet(self, seconds: float) -> None:
        """Waits until no journal has grown for a second: what was under way has arrived."""
        end, seen, since = time.monotonic() + seconds, -1, time.monotonic()
        while time.monotonic() < end and time.monotonic() - since < 1.0:
            size = sum(
                self._journal(endpoint).stat().st_size
                for endpoint in self.endpoints
                if self._journal(endpoint).exists()
            )
            if size != seen:
                seen, since = size, time.monotonic()
            time.sleep(0.05)

    def _journal(self, endpoint: Endpoint) -> Path:
        return self._folder / f"{endpoint.name}.journal"
