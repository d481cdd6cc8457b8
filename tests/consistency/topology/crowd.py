"""Clients as a process of their own, and what they wrote down."""

import json
import subprocess
import sys
import time
from pathlib import Path

from judging.history import Op
from lab.process import Child
from topology import ROOT

PROGRAM = ROOT / "tests" / "consistency" / "programs" / "clients.py"


class Crowd:
    def __init__(self, folder: Path, cpus: str, name: str, order: dict) -> None:
        self._journal = folder / f"{name}.ops"
        known = {
            "name": name,
            "journal": str(self._journal),
            "sessions": 24,
            "keys": 40,
            "write_share": 0.3,
            "think_ms": 10,
            "timeout": 15,
            "operations": 1_000_000_000,
            "ways": ["cookie", "header"],
        }
        argv = [sys.executable, str(PROGRAM), json.dumps(known | order)]
        log = folder / f"{name}.log"
        self._child = Child(argv, cpus, log=log, stdin=subprocess.PIPE)
        self._log = log

    def is_running(self) -> bool:
        return self._child.is_running()

    def finish(self) -> list[Op]:
        """No new requests; what is under way is waited for. RuntimeError if the clients broke."""
        self._child.popen.stdin.close()
        code = self._child.popen.wait(60)
        if code:
            raise RuntimeError(f"clients ended with {code}: {self._log.read_text()[-1500:]}")
        return self.ops()

    def ops(self) -> list[Op]:
        with self._journal.open() as file:
            return [Op(*json.loads(line)) for line in file]

    def stop(self) -> None:
        if self._child.is_running():
            self._child.kill()

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < end:
            time.sleep(0.1)
