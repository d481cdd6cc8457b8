"""The mix of traffic: about 300 requests a second in all, the same mix throughout."""

import asyncio
from pathlib import Path

from endurance import clients
from endurance.clients import Notes
from lab.load import is_good, read_log
from lab.process import Child

BODY = b"y" * 4096
BIG_BODY = b"z" * (1 << 20)
H2_RUN_SECONDS = 10
H2_CONNECTIONS, H2_RPS_EACH = 4, 15
MOST_CANCELLATIONS = 30

# kind, method, path, body, clients, seconds between two requests of one client
REGULAR = [
    ("get", "GET", "/", b"", 20, 0.1),
    ("post", "POST", "/", BODY, 4, 0.2),
    ("big", "GET", "/big", b"", 2, 0.4),
    ("upload", "POST", "/", BIG_BODY, 1, 0.5),
]
IDEMPOTENT = {"get", "big", "h2"}


def start(ports: dict[str, int], notes: Notes, folder: Path, cpus: str) -> list[asyncio.Task]:
    h1 = ports["h1"]
    running = [
        clients.regular(h1, notes, kind, method, path, body, every, every * place / count)
        for kind, method, path, body, count, every in REGULAR
        for place in range(count)
    ]
    running += [clients.aborting(h1, notes, 0.2), clients.aborting(h1, notes, 0.13)]
    running += [clients.slow(h1, notes) for _ in range(6)]
    running.append(http2(f"http://127.0.0.1:{ports['h2']}/", notes, folder, cpus))
    return [asyncio.create_task(client) for client in running]


async def http2(url: str, notes: Notes, folder: Path, cpus: str) -> None:
    """One run of h2load after the other; every second one is 200 requests as fast as they go."""
    number = 0
    while True:
        log = folder / "h2.log"
        log.unlink(missing_ok=True)
        steady = [f"--rps={H2_RPS_EACH}", f"-D{H2_RUN_SECONDS}"]
        argv = ["h2load", "-t1", f"-c{H2_CONNECTIONS}", "-m8", f"--log-file={log}", url]
        with Child([*argv, *(["-n200"] if number % 2 else steady)], cpus) as child:
            for _ in range((H2_RUN_SECONDS + 20) * 5):
                if not child.is_running():
                    break
                await asyncio.sleep(0.2)
        for _, status, _ in read_log(log):
            if is_good(status):
                notes.answer("h2")
            else:
                notes.fail("h2", "stream failed" if status < 0 else f"status {status}")
        number += 1


async def stop(tasks: list[asyncio.Task]) -> None:
    """Ends them; what one of them failed of is raised. Python 3.11's wait_for now and then swallows
    a cancellation, so that one is not always enough.
    """
    left = set(tasks)
    for _ in range(MOST_CANCELLATIONS):
        for task in left:
            task.cancel()
        if not left:
            break
        _, left = await asyncio.wait(left, timeout=1)
    if left:
        raise RuntimeError(f"{len(left)} clients did not end")
    for task in tasks:
        if not task.cancelled():
            task.result()
