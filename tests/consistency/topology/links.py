"""Who reaches whom, and cutting it.

Every pair of a caller and a region has a loopback address of its own, so that a firewall rule (of
the sandbox's own network) can cut one link and leave the others.
"""

import subprocess
from pathlib import Path

from harness import sandbox

EDGES = ("edge-1", "edge-2")
REGIONS = ("r1", "r2", "r3")
CALLERS = (*EDGES, *REGIONS)


def address(caller: str, region: str) -> str:
    """Where `caller` reaches `region`: its application if an edge calls, else its database."""
    return f"127.0.{REGIONS.index(region) + 1}.{CALLERS.index(caller) + 11}"


class Links:
    """What is cut now. RuntimeError if the firewall refuses."""

    def __init__(self) -> None:
        self._cut: set[str] = set()

    @staticmethod
    def lacking() -> str | None:
        """Why nothing can be cut here."""
        return sandbox.lacks("iptables")

    def cut(self, *links: tuple[str, str]) -> None:
        for caller, region in links:
            place = address(caller, region)
            if place not in self._cut:
                self._cut.add(place)
                self._rules("-A", place)

    def heal(self) -> None:
        for place in self._cut:
            self._rules("-D", place)
        self._cut.clear()

    @staticmethod
    def _rules(what: str, place: str) -> None:
        for side in ("-d", "-s"):
            argv = ["iptables", "-w", what, "INPUT", side, place, "-j", "DROP"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"iptables: {done.stderr.strip()}")


def socket_folder(folder: Path) -> Path:
    """Of a region's database. The path of a socket may have no more than 107 bytes."""
    if len(str(folder)) > 80:
        raise RuntimeError(f"the temporary folder's path is too long: {folder}")
    return folder
