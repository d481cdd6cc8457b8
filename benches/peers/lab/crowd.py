"""A crowd of idle connections, held by several processes from several client addresses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Self

from lab.load import LoadFailed
from lab.process import Child

PER_ADDRESS = 25_000  # of about 28,000 client ports
KEPT_FILES = 100  # of a holder's descriptors, for Python itself
MOST_HOLDERS = 64


class Crowd:
    """Opens the connections when made; closes them with the block."""

    def __init__(self, target: str, count: int, file_limit: int, cpus: str) -> None:
        share = min(PER_ADDRESS, file_limit - KEPT_FILES)
        holders = min(-(-count // share), MOST_HOLDERS)
        program = str(Path(__file__).with_name("holder.py"))
        self._holders: list[Child] = []
        self.held = 0
        try:
            for number in range(holders):
                argv = [
                    sys.executable,
                    program,
                    target,
                    f"127.0.0.{number + 2}",
                    str(min(share, count - number * share)),
                ]
                self._holders.append(
                    Child(argv, cpus, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
            self.held = sum(self._heard(holder)["held"] for holder in self._holders)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @staticmethod
    def _heard(holder: Child) -> dict:
        line = holder.popen.stdout.readline()
        if not line:
            raise LoadFailed("a holder of connections ended early")
        return json.loads(line)

    def _told(self, holder: Child, text: str) -> dict:
        holder.popen.stdin.write(text + "\n")
        holder.popen.stdin.flush()
        return self._heard(holder)

    def ask(self, requests: int) -> tuple[list[float], int]:
        """Requests one after the other on connections spread over the crowd: microseconds,
        failures.
        """
        took: list[float] = []
        failed = 0
        for holder in self._holders:
            said = self._told(holder, f"ask {requests // len(self._holders)}")
            took += said["us"]
            failed += said["failed"]
        return sorted(took), failed

    def still_open(self) -> int:
        return sum(self._told(holder, "count")["open"] for holder in self._holders)

    def close(self) -> None:
        for holder in self._holders:
            holder.popen.stdin.close()
            holder.stop()
            holder.popen.stdout.close()
        self._holders = []
