"""Meridian's admin endpoint, asked from outside."""

import http.client
import re
import threading
import time
from collections.abc import Callable

from lab import client


def is_ready(address: str) -> bool:
    try:
        return ask(address, "/readyz")[0] == 200
    except OSError:
        return False


def ask(address: str, path: str, method: str = "GET", body: str | None = None) -> tuple[int, str]:
    """Status and text. OSError if there is no whole answer within 2 s."""
    try:
        return client.call(address, method, path, body, timeout=2)
    except http.client.HTTPException as problem:
        raise OSError(f"{path}: {problem!r}") from problem


def metrics(address: str) -> str:
    """OSError if nobody answers."""
    status, text = ask(address, "/metrics")
    if status != 200:
        raise OSError(f"/metrics: {status}")
    return text


def total(text: str, name: str, *labels: str) -> float | None:
    """The sum over all series of the name that carry these labels; None if there is none."""
    values = [
        float(value)
        for found, value in re.findall(
            rf"^{re.escape(name)}(\{{[^}}]*\}}|) (\S+)$", text, re.MULTILINE
        )
        if all(label in found for label in labels)
    ]
    return sum(values) if values else None


class Watch:
    """Asks something over and over, on a thread: (monotonic ns, answer); None where it failed."""

    def __init__(self, ask: Callable[[], float | None], every: float = 0.05) -> None:
        self._ask, self._every = ask, every
        self.seen: list[tuple[int, float | None]] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(self._every):
            begun = time.monotonic_ns()
            try:
                self.seen.append((begun, self._ask()))
            except OSError:
                self.seen.append((begun, None))

    def close(self) -> list[tuple[int, float | None]]:
        self._closed.set()
        self._thread.join(5)
        return self.seen


def endpoints_up(address: str) -> float | None:
    """Endpoints of the service under test that the edge takes for healthy."""
    return total(metrics(address), "meridian_endpoint_up", 'service="api"')
