"""What the bench asks of a proxy: a configuration for a setup, a way to check it, a way to start
it.

All proxies are set up for the same work: keep-alive to clients and backends, least connections or
better across twelve addresses, X-Forwarded-For, no session resumption.
"""

import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lab.backend import wait_until_open
from lab.machine import first_line
from lab.process import Child


@dataclass(frozen=True)
class Site:
    """Where a run takes place."""

    folder: Path
    ports: dict[str, int]  # h1, h2, tls, admin, syslog
    backends: tuple[str, ...]  # addresses
    aliases: tuple[str, ...]  # many more addresses of the same backend

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def url(self, listener: str, path: str = "/") -> str:
        scheme = "https" if listener == "tls" else "http"
        return f"{scheme}://{self.address(listener)}{path}"


@dataclass(frozen=True)
class Setup:
    """How a proxy is configured for a measurement."""

    listeners: frozenset[str] = frozenset({"h1"})
    workers: int = 1
    log: str | None = None  # one of the proxy's `logs`
    max_connections: int = 8192
    # What only Meridian has:
    regions: int = 4
    endpoints: int = 12
    routes: int = 1
    many_addresses: bool = False  # endpoints at the aliases
    probe_interval: str | None = None  # of health checks
    edition: int = 0  # of a configuration that is reloaded


@dataclass(frozen=True)
class Command:
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)


class DidNotStart(Exception):
    """With the end of what the proxy said."""


class Proxy(ABC):
    """One program under one name."""

    is_meridian = False
    logs: tuple[str, ...] = ()

    def __init__(self, name: str, binary: str) -> None:
        self.name = name
        beside = str(Path(sys.executable).parent)  # what the Python environment has
        self.binary = shutil.which(binary) or shutil.which(binary, path=beside) or binary

    @abstractmethod
    def configure(self, site: Site, setup: Setup) -> Command:
        """Writes the configuration."""

    @abstractmethod
    def check(self, command: Command) -> list[str]:
        """The command that only checks the configuration of another command."""

    @abstractmethod
    def version(self) -> str: ...

    def is_installed(self) -> bool:
        return shutil.which(self.binary) is not None

    def log_file(self, site: Site) -> Path:
        return self.folder(site) / "access.log"

    def folder(self, site: Site) -> Path:
        folder = site.folder / self.name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        return folder

    def refusal(self, site: Site, setup: Setup) -> str | None:
        """Why the program does not take this setup; None if it does."""
        command = self.configure(site, setup)
        try:
            said = subprocess.run(
                self.check(command), capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            return str(problem)
        if said.returncode == 0:
            return None
        lines = [line for line in (said.stdout + said.stderr).splitlines() if line.strip()]
        shown = (lines or [f"its check ended with {said.returncode}"])[0]
        return re.sub(r"\S*/", "", shown)[:200]

    def start(self, site: Site, setup: Setup, cpus: str) -> "Running":
        command = self.configure(site, setup)
        output = self.folder(site) / "output.log"
        output.write_text("")
        child = Child(command.argv, cpus, command.env, output)
        running = Running(self, site, setup, child)
        if not (wait_until_open(site.address("h1"), child) and self.is_ready(running)):
            child.stop()
            raise DidNotStart(f"{self.name} did not start: {output.read_text()[-1500:]}")
        return running

    def is_ready(self, running: "Running") -> bool:
        return running.child.is_running()

    def version_by(self, argv: list[str], pattern: str) -> str:
        return first_line(argv, pattern)


@dataclass
class Running:
    """A started proxy; stopped with the block."""

    proxy: Proxy
    site: Site
    setup: Setup
    child: Child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.child.stop()
