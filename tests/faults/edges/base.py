"""What the cases ask of a proxy: to run in front of some endpoints, to read its configuration
again, to be replaced by another binary.
"""

import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from harness.world import Endpoint, Region
from lab import client
from lab.machine import first_line
from lab.process import Child, cpu_seconds, descendants, listed, status_number


@dataclass(frozen=True)
class Settings:
    """What a case wants otherwise than usual. Only Meridian knows all of them."""

    edition: int = 0  # of a configuration that is reloaded
    access_log: Path | None = None
    state: Path | None = None
    geo_database: Path | None = None
    names: dict[str, str] = field(default_factory=dict)  # "name:port" by address
    prefix: tuple[str, ...] = ()  # a command that runs the proxy
    env: dict[str, str] = field(default_factory=dict)
    max_connections: int = 20_000


@dataclass(frozen=True)
class Site:
    """Where a case takes place."""

    folder: Path
    address: str
    admin: str
    regions: tuple[Region, ...]
    endpoints: list[Endpoint]
    cpus: str

    @property
    def workers(self) -> int:
        return len(self.cpus.split(","))

    def of(self, service: str) -> list[Endpoint]:
        return [endpoint for endpoint in self.endpoints if endpoint.service == service]


class DidNotStart(Exception):
    """With the end of what the proxy said."""


class Edge(ABC):
    """One program."""

    is_meridian = False
    upgrade_prefix: tuple[str, ...] = ()  # what must start it so that it can be upgraded

    def __init__(self, name: str, binary: str) -> None:
        self.name = name
        self.binary = os.path.realpath(found) if (found := shutil.which(binary)) else binary

    def is_installed(self) -> bool:
        return shutil.which(self.binary) is not None

    @abstractmethod
    def write(self, site: Site, settings: Settings) -> None:
        """The configuration, in place of the one before."""

    @abstractmethod
    def command(self, site: Site) -> list[str]: ...

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def reload(self, running: "Running") -> None:
        """Asks for it; whether it worked is up to the proxy."""

    def no_upgrade(self) -> str | None:
        """Why it cannot be replaced by another binary while it runs; None if it can."""
        return f"{self.name} is not upgraded here"

    def upgrade(self, running: "Running") -> None:
        """Returns once the new process serves. RuntimeError if it does not."""
        raise RuntimeError(self.no_upgrade())

    def is_ready(self, running: "Running") -> bool:
        return True

    def version_by(self, argv: list[str], pattern: str) -> str:
        return first_line(argv, pattern)

    def start(self, site: Site, settings: Settings) -> "Running":
        self.write(site, settings)
        output = site.folder / "output.log"
        argv = [*settings.prefix, *self.command(site)]
        child = Child(argv, site.cpus, settings.env, output)
        running = Running(self, site, settings, child)
        end = time.monotonic() + 20
        while child.is_running() and time.monotonic() < end:
            if client.accepts(site.address) and self.is_ready(running):
                return running
            time.sleep(0.05)
        running.stop()
        raise DidNotStart(f"{self.name} did not start: {output.read_text()[-1500:]}")


class Running:
    """A proxy that runs, through reloads and upgrades."""

    def __init__(self, edge: Edge, site: Site, settings: Settings, child: Child) -> None:
        self.edge, self.site, self.settings, self.child = edge, site, settings, child

    def write(self, settings: Settings) -> None:
        self.settings = settings
        self.edge.write(self.site, settings)

    def is_running(self) -> bool:
        return bool(self.processes())

    def processes(self) -> list[int]:
        """The process that was started and what comes from it, and after upgrades those that took
        over: by the program that runs, as the parent may be gone.
        """
        own = set(descendants(self.child.pid)) if self.child.is_running() else set()
        return sorted(own | set(running_program(self.edge.binary)))

    def signal(self, number: int) -> None:
        for pid in self.processes():
            os.kill(pid, number)

    def usage(self) -> dict[str, float]:
        pids = self.processes()
        return {
            "rss_kib": sum(status_number(pid, "VmRSS") for pid in pids),
            "descriptors": sum(len(listed(f"/proc/{pid}/fd")) for pid in pids),
            "threads": sum(status_number(pid, "Threads") for pid in pids),
            "cpu_seconds": sum(cpu_seconds(pid) for pid in pids),
        }

    def said(self) -> str:
        return (self.site.folder / "output.log").read_text(errors="replace")

    def stop(self) -> None:
        self.child.stop()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


def running_program(binary: str) -> list[int]:
    """Processes that this run has started and that run the program, the oldest first.

    Of processes that others have started on the machine it must not know: outside a sandbox there
    are none.
    """
    from harness import sandbox

    if sandbox.lacks("sandbox"):
        return []
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "exe").removesuffix(" (deleted)") == binary:
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)
