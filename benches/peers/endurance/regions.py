"""Four regions of two endpoints, each endpoint a process with a pid of its own; and the edge's
configuration.
"""

import signal
from pathlib import Path

from lab.backend import start_backend, wait_until_open
from lab.process import Child

REGIONS = [
    ("us-east-1", 38.95, -77.45),
    ("us-west-2", 45.84, -119.70),
    ("eu-west-1", 53.35, -6.26),
    ("ap-southeast-1", 1.35, 103.82),
]
ENDPOINTS_PER_REGION = 2


class Endpoint:
    def __init__(self, folder: Path, address: str, cpus: str) -> None:
        self._folder, self.address, self._cpus = folder, address, cpus
        self._child: Child | None = None

    def start(self) -> None:
        if self._child is None or not self._child.is_running():
            self._child = start_backend(
                self._folder, [self.address], self._cpus, "worker_processes 1; master_process off;"
            )

    def is_open(self) -> bool:
        return self._child is not None and wait_until_open(self.address, self._child)

    def kill(self) -> None:
        if self._child:
            self._child.kill()

    def freeze(self) -> None:
        if self._child:
            self._child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._child:
            self._child.signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._child:
            self._child.stop()


class Region:
    def __init__(self, name: str, endpoints: list[Endpoint]) -> None:
        self.name, self.endpoints = name, endpoints

    def each(self, action: str) -> None:
        for endpoint in self.endpoints:
            getattr(endpoint, action)()


def make_regions(folder: Path, ports: list[int], cpus: str) -> list[Region]:
    regions = []
    for number, (name, _, _) in enumerate(REGIONS):
        mine = ports[number * ENDPOINTS_PER_REGION :][:ENDPOINTS_PER_REGION]
        regions.append(
            Region(
                name,
                [
                    Endpoint(folder / f"{name}-{place}", f"127.0.0.1:{port}", cpus)
                    for place, port in enumerate(mine)
                ],
            )
        )
    return regions


def configuration(folder: Path, ports: dict[str, int], regions: list[Region], edition: int) -> str:
    """Editions differ in what reloads change: weights, a drain, a route more or less, a service's
    timeouts.
    """
    drained = edition % 8 == 5
    places = "".join(
        f'[[regions]]\nid = "{name}"\nrole = "{"replica" if number else "primary"}"\n'
        f"coordinates = [{latitude}, {longitude}]\nweight = {100 + edition * (number + 1) % 7}\n"
        f"drain = {'true' if drained and number == 3 else 'false'}\n\n"
        for number, (name, latitude, longitude) in enumerate(REGIONS)
    )
    endpoints = "".join(
        f'[[services.endpoints]]\nregion = "{region.name}"\naddress = "{endpoint.address}"\n'
        f"weight = {100 + edition % 3 * 10}\n\n"
        for region in regions
        for endpoint in region.endpoints
    )
    extra = "".join(
        f'[[routes]]\nname = "extra-{number}"\npath_prefix = "/extra-{number}"\nservice = "api"\n\n'
        for number in range(edition % 5 * 20)
    )
    return f"""
[edge]
id = "soak"
state_dir = "{folder}/state"
worker_threads = 1

[[listeners]]
name = "plain"
address = "127.0.0.1:{ports["h1"]}"

[[listeners]]
name = "cleartext-h2"
address = "127.0.0.1:{ports["h2"]}"
protocols = ["h2c", "http1"]

[limits]
header_timeout = "2s"
keepalive_timeout = "10s"
requests_per_connection = 500

[shutdown]
lame_duck = "0s"
grace = "2s"

[admin]
address = "127.0.0.1:{ports["admin"]}"

[access_log]
output = "{folder}/access.log"

{places}
[[services]]
name = "api"
policy = "latency"
balance = "p2c_ewma"
[services.health]
path = "/health"
[services.timeouts]
first_byte = "{2 + edition % 2}s"
idle = "5s"

{endpoints}
{extra}[[routes]]
name = "everything"
path_prefix = "/"
service = "api"
"""
