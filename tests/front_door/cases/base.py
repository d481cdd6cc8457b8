"""A case: what it needs, what it does, and the bounds that must hold."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from front import ROOT
from front.certificates import Authority
from front.edge import Front, Settings
from harness.judge import Check
from lab import ports
from lab.backend import wait_until_open
from lab.process import Child

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"


@dataclass
class Place:
    """Where a case takes place: a folder and processors of its own, and the binary."""

    binary: str
    folder: Path
    cpus: str
    authority: Authority

    def __post_init__(self) -> None:
        self._ports = ports.free_ports(24)
        self._children: list[Child] = []

    def port(self) -> int:
        """Another free one each time."""
        return self._ports.pop()

    def address(self) -> str:
        return f"127.0.0.1:{self.port()}"

    def front(self, settings: Settings) -> Front:
        made = [self.port() for _ in range(3)]
        return Front(self.binary, self.folder, self.cpus, made, self.authority).start(settings)

    def program(self, name: str, address: str, *arguments: str) -> str:
        """Starts a program of this suite that listens at the address; the address."""
        return self.serve(
            name, [sys.executable, str(PROGRAMS / name), address, *arguments], address
        )

    def serve(self, name: str, argv: list[str], address: str) -> str:
        """Starts anything that listens there. RuntimeError if nobody accepts."""
        log = self.folder / f"{name}.log"
        child = Child(argv, self.cpus, log=log)
        self._children.append(child)
        if not wait_until_open(address, child):
            raise RuntimeError(f"{name} did not start: {log.read_text(errors='replace')[-500:]}")
        return address

    def close(self) -> None:
        for child in self._children:
            child.stop()


class Case:
    """`run` leaves `figures` and returns checks."""

    name = ""
    title = ""
    short = True
    programs: tuple[str, ...] = ()  # that must be installed

    def __init__(self) -> None:
        self.figures: dict = {}

    def lacks(self) -> str | None:
        """Why it cannot run here."""
        missing = [name for name in self.programs if tool(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else None

    def version(self) -> str:
        return ""

    def run(self, place: Place) -> list[Check]:
        raise NotImplementedError


def tool(name: str) -> str | None:
    """A program of the machine, or one that scripts/setup.sh has put into target/."""
    own = ("target/tools/bin", "target/front-door-venv/bin", "target/venv/bin")
    path = os.pathsep.join([*(str(ROOT / folder) for folder in own), os.environ["PATH"]])
    return shutil.which(name, path=path)
