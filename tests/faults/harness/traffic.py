"""The load: who asks what, how often; and the processes that do it."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.reconcile import Asked
from lab.process import Child

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
ENDING_SECONDS = 10.0  # beyond the patience of a client


@dataclass(frozen=True)
class Flow:
    kind: str
    method: str
    path: str
    clients: int
    rate: float  # requests a second, of all clients together
    body: int = 0


GETS = Flow("get", "GET", "/work", 60, 300)
POSTS = Flow("post", "POST", "/work", 30, 120, body=512)
# The same two ways: through the proxy, and past it, to know what the machine alone does to latency.
BYSTANDER = Flow("bystander", "GET", "/bystander/work", 25, 50)

DIRECT = replace(BYSTANDER, kind="direct")


class Load:
    """One process of clients. `finish` has what they saw."""

    def __init__(
        self, name: str, target: str, folder: Path, cpus: str, flows: list[Flow], patience: float
    ) -> None:
        """`patience`: seconds that a client waits for a whole answer."""
        self._patience = patience
        self._journal = folder / f"{name}.asked"
        order = {
            "name": name,
            "target": target,
            "journal": str(self._journal),
            "timeout": patience,
            "flows": [asdict(flow) for flow in flows],
        }
        argv = [sys.executable, str(PROGRAMS / "load.py"), json.dumps(order)]
        self._log = folder / f"{name}.log"
        self._child = Child(argv, cpus, log=self._log, stdin=subprocess.PIPE)

    def finish(self) -> list[Asked]:
        """RuntimeError if the clients failed themselves."""
        self._child.popen.stdin.close()
        try:
            self._child.popen.wait(self._patience + ENDING_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise RuntimeError("the clients did not end") from late
        finally:
            self._child.stop()
        if self._child.popen.returncode:
            raise RuntimeError(f"the clients failed: {self._log.read_text()[-1000:]}")
        lines = self._journal.read_text().splitlines()
        return [Asked(*json.loads(line)) for line in lines]

    def abandon(self) -> None:
        if self._child.is_running():
            self._child.kill()


class SlowClients:
    """A crowd that takes its time; gone after the block."""

    def __init__(
        self,
        target: str,
        folder: Path,
        cpus: str,
        heads: int = 0,
        bodies: int = 0,
        readers: int = 0,
    ) -> None:
        # With little claim to the processor: the crowd is to trouble the proxy, not the machine.
        argv = ["nice", "-n", "10", sys.executable, str(PROGRAMS / "slow.py"), target]
        argv += map(str, (heads, bodies, readers))
        with (folder / "slow.log").open("ab") as log:
            self._child = Child(
                argv, cpus, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def connected(self) -> int:
        """Waits until they have settled."""
        line = self._child.popen.stdout.readline()
        if not line:
            raise RuntimeError("the slow clients failed")
        return json.loads(line)["connected"]

    def __enter__(self) -> "SlowClients":
        return self

    def __exit__(self, *_) -> None:
        self._child.popen.stdin.close()
        self._child.stop()
        self._child.popen.stdout.close()
