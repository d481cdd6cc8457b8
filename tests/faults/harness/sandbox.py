"""A network, a process table and mounts of the run's own, gone with it however it ends.

`enter` starts the program anew inside. What a machine cannot do is asked of `lacks`: a case that
needs it is reported as not measured, with the reason.
"""

import functools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

MARK = "MERIDIAN_FAULTS_SANDBOX"
UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
if os.geteuid() != 0 and MARK not in os.environ:
    UNSHARE.append("--map-root-user")
LIBFAKETIME = "faketime/libfaketime.so.1"


def enter() -> None:
    """Returns inside the sandbox, or outside where there can be none."""
    if MARK in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    if succeeds([*UNSHARE, "true"]):
        os.environ[MARK] = "1"
        os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, *sys.argv])


def succeeds(argv: list[str]) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _sandbox() -> str | None:
    if MARK in os.environ:
        return None
    return "no namespaces of its own: unshare is not allowed here"


def _iptables() -> str | None:
    return _sandbox() or (
        None if succeeds(["iptables", "-n", "-L", "INPUT"]) else "iptables does not work here"
    )


def _packets() -> str | None:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except OSError as problem:
        return f"packets cannot be watched: {problem.strerror}"
    return None


def _memory() -> str | None:
    from harness.memory import MemoryLimit

    try:
        MemoryLimit(64 << 20).remove()
    except OSError as problem:
        return f"no memory control group can be made: {problem.strerror}"
    return None


def _faketime() -> str | None:
    return None if faketime_library() else "libfaketime is not installed"


def _curl() -> str | None:
    return None if shutil.which("curl") else "curl is not installed"


NEEDS = {
    "sandbox": _sandbox,
    "iptables": _iptables,
    "packets": _packets,
    "memory": _memory,
    "faketime": _faketime,
    "curl": _curl,
}


@functools.cache
def lacks(need: str) -> str | None:
    """Why the machine does not have it; None if it does."""
    return NEEDS[need]()


def faketime_library() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob(f"*/{LIBFAKETIME}"))), None)
