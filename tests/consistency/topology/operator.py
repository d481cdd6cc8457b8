"""Whoever operates the databases, as an edge's promotion hook asks for it (programs/promote.py)."""

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path

from topology import ROOT
from topology.site import Site

HOOK = ROOT / "tests" / "consistency" / "programs" / "promote.py"


class Operator:
    """Answers on a socket until it is closed."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self._path = site, folder / "operator.sock"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self._path))
        self._socket.listen()
        self.seconds: list[float] = []  # that each change took
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def hook(self) -> str:
        """For [services.failover]; the region is added by the edge."""
        words = [sys.executable, str(HOOK), str(self._path)]
        return "hook = [" + ", ".join(f'"{word}"' for word in words) + "]"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._socket.accept()[0]
                with connection:
                    wanted = connection.makefile().readline().strip()
                    connection.sendall(self._changed(wanted).encode() + b"\n")

    def _changed(self, wanted: str) -> str:
        begun = time.monotonic()
        try:
            if wanted != self._site.primary:
                self._site.switch_over(wanted)
        except Exception as problem:  # whatever it is, the hook tells it
            return f"{type(problem).__name__}: {problem}"
        self.seconds.append(time.monotonic() - begun)
        return "done"

    def close(self) -> None:
        self._socket.close()
