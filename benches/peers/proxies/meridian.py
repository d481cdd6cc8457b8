"""Meridian with everything on that a user has on: latency policy, p2c_ewma, classification, geo
lookup, health checks, metrics.
"""

import shutil

from lab import client
from proxies.base import Command, Proxy, Running, Setup, Site

PLACES = [
    ("us-east-1", 38.95, -77.45),
    ("us-west-2", 45.84, -119.70),
    ("eu-west-1", 53.35, -6.26),
    ("ap-southeast-1", 1.35, 103.82),
]


class Meridian(Proxy):
    is_meridian = True
    logs = ("json", "combined")

    def configure(self, site: Site, setup: Setup) -> Command:
        folder = self.folder(site)
        shutil.rmtree(folder / "state", ignore_errors=True)
        self.write(site, setup)
        return Command([self.binary, "run", "--config", f"{folder}/meridian.toml"])

    def write(self, site: Site, setup: Setup) -> None:
        """Replaces the file at once, as a reload wants it."""
        folder = self.folder(site)
        (folder / "new.toml").write_text(self._configuration(site, setup))
        (folder / "new.toml").rename(folder / "meridian.toml")

    def check(self, command: Command) -> list[str]:
        return [self.binary, "check", *command.argv[2:]]

    def version(self) -> str:
        return self.version_by([self.binary, "version"], r"meridian (.*)")

    def is_ready(self, running: Running) -> bool:
        return client.wait_until_ready(running.site.address("admin"))

    def _configuration(self, site: Site, setup: Setup) -> str:
        log = (
            f'output = "{self.log_file(site)}"\nformat = "{setup.log}"'
            if setup.log
            else 'output = "off"'
        )
        interval = f'interval = "{setup.probe_interval}"' if setup.probe_interval else ""
        return f"""
[edge]
id = "bench"
state_dir = "{self.folder(site)}/state"
worker_threads = {setup.workers}
max_connections = {max(setup.max_connections, 65536)}

{"".join(listener(site, name) for name in sorted(setup.listeners))}
[limits]
keepalive_timeout = "600s"
requests_per_connection = 100000000

[admin]
address = "{site.address("admin")}"

[shutdown]
lame_duck = "0s"
grace = "1s"

[access_log]
{log}

{regions(setup)}
[[services]]
name = "api"
policy = "latency"
balance = "p2c_ewma"
[services.health]
path = "/health"
{interval}

{endpoints(site, setup)}
{routes(setup)}"""


def listener(site: Site, name: str) -> str:
    text = f'[[listeners]]\nname = "{name}"\naddress = "{site.address(name)}"\n'
    if name == "h2":
        text += 'protocols = ["h2c", "http1"]\n'
    if name == "tls":
        text += (
            f"[listeners.tls]\nsession_tickets = false\ncertificates = [{{ certificate = "
            f'"{site.folder}/cert.pem", private_key = "{site.folder}/key.pem" }}]\n'
        )
    return text + "\n"


def region_name(number: int) -> str:
    return PLACES[number][0] if number < len(PLACES) else f"region-{number}"


def regions(setup: Setup) -> str:
    text = ""
    for number in range(setup.regions):
        _, latitude, longitude = PLACES[number % len(PLACES)]
        role = "replica" if number else "primary"
        text += (
            f'[[regions]]\nid = "{region_name(number)}"\nrole = "{role}"\n'
            f"coordinates = [{latitude + number * 0.1:.2f}, {longitude}]\n\n"
        )
    return text


def endpoints(site: Site, setup: Setup) -> str:
    """Evenly over the regions, in the order of the addresses."""
    addresses = (site.aliases if setup.many_addresses else site.backends)[: setup.endpoints]
    return "".join(
        f'[[services.endpoints]]\nregion = "{region_name(number * setup.regions // len(addresses))}"\n'
        f'address = "{address}"\n\n'
        for number, address in enumerate(addresses)
    )


def route_path(number: int) -> str:
    return f"/area-{number}/items"


def routes(setup: Setup) -> str:
    """One for everything, and before it as many others as are asked for. Every edition differs
    from the next in one route of a hundred."""
    text = ""
    for number in range(setup.routes - 1):
        exposed = "true" if setup.edition % 2 and number % 100 == 0 else "false"
        text += (
            f'[[routes]]\nname = "area-{number}"\npath_prefix = "/area-{number}"\n'
            f'service = "api"\nexpose_decision = {exposed}\n\n'
        )
    return text + '[[routes]]\nname = "everything"\npath_prefix = "/"\nservice = "api"\n'
