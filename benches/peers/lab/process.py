"""Processes of the bench: each is pinned, watched through /proc, and ended by its own pid.

Should the bench itself be killed, the system ends them (PR_SET_PDEATHSIG).
"""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Self

STOP_SECONDS = 8.0


class Child:
    """One started process and what /proc says about it and its children."""

    def __init__(
        self,
        argv: list[str],
        cpus: str,
        env: dict[str, str] | None = None,
        log: Path | None = None,
        **more,
    ) -> None:
        pinned = ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", cpus, *argv]
        self._log = log.open("ab") if log else subprocess.DEVNULL
        more = {"stdout": self._log, "stderr": self._log, "stdin": subprocess.DEVNULL, **more}
        self.popen = subprocess.Popen(pinned, env={**os.environ, **(env or {})}, **more)
        self.pid = self.popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        if self.is_running():
            self.popen.send_signal(number)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._close_log()

    def stop(self) -> None:
        """Asks the process to end, then insists. Children that outlive it are killed by pid."""
        family = self.family()
        if self.is_running():
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        for pid, started in family:
            if pid != self.pid and start_time(pid) == started:
                os.kill(pid, signal.SIGKILL)
        self._close_log()

    def _close_log(self) -> None:
        if self._log is not subprocess.DEVNULL:
            self._log.close()

    def family(self) -> list[tuple[int, int]]:
        """The process and its descendants, each with its start time: pids come round again."""
        return [(pid, started) for pid in descendants(self.pid) if (started := start_time(pid))]

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in descendants(self.pid))

    def rss_kib(self) -> int:
        return sum(status_number(pid, "VmRSS") for pid in descendants(self.pid))

    def threads(self) -> int:
        return sum(status_number(pid, "Threads") for pid in descendants(self.pid))

    def descriptors(self) -> int:
        return sum(len(listed(f"/proc/{pid}/fd")) for pid in descendants(self.pid))


def listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def text_of(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    found = [pid]
    for task in listed(f"/proc/{pid}/task"):
        for child in text_of(f"/proc/{pid}/task/{task}/children").split():
            found += descendants(int(child))
    return found


def start_time(pid: int) -> int | None:
    """Clock ticks since boot; None once the process is gone or a zombie."""
    fields = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields and fields[0] != "Z" else None


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads, to the nanosecond."""
    return (
        sum(
            int((text_of(f"/proc/{pid}/task/{task}/schedstat") or "0").split()[0])
            for task in listed(f"/proc/{pid}/task")
        )
        / 1e9
    )


def status_number(pid: int, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+)", text_of(f"/proc/{pid}/status"), re.MULTILINE)
    return int(found.group(1)) if found else 0
