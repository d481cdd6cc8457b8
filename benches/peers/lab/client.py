"""A small blocking HTTP/1.1 client: for admin calls and for single requests that are timed."""

import http.client
import json
import socket
import time


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def accepts(address: str) -> bool:
    try:
        socket.create_connection(split(address), timeout=1).close()
    except OSError:
        return False
    return True


def call(
    address: str, method: str, path: str, body: str | None = None, timeout: float = 30.0
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*split(address), timeout=timeout)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def reload_edge(admin: str) -> dict:
    """POST /api/v1/reload: how long it took, and whether the new text is in force."""
    start = time.monotonic()
    status, body = call(admin, "POST", "/api/v1/reload")
    took = (time.monotonic() - start) * 1000
    changed = status == 200 and bool(json.loads(body).get("changed"))
    return {
        "ms": took,
        "status": status,
        "changed": changed,
        "error": None if status == 200 else body[:300],
    }


def wait_until_ready(admin: str, seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if call(admin, "GET", "/readyz", timeout=2)[0] == 200:
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False
