"""Free ports on loopback.

Promises ports below the range that the system hands out to clients, so that no connection of the
load generator can take one of them between the choice and the bind.
"""

import random
import socket

LOWEST, HIGHEST = 20000, 32000


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """As many neighbouring ports as can be, all of them free now."""
    found: list[int] = []
    start = random.randrange(LOWEST, HIGHEST)
    for step in range(HIGHEST - LOWEST):
        port = LOWEST + (start - LOWEST + step) % (HIGHEST - LOWEST)
        if is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports between {LOWEST} and {HIGHEST}")
