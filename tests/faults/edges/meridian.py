"""Meridian with what a user has on: active checks and passive ones at their defaults."""

import os
import signal
import subprocess
import time

from edges.base import Edge, Running, Settings, Site, running_program
from harness import admin
from lab import client

UPGRADE_SECONDS = 60
POLL_SECONDS = 0.01


class Meridian(Edge):
    is_meridian = True

    def __init__(self, name: str, binary: str) -> None:
        super().__init__(name, binary)
        self._upgrades = 0

    def command(self, site: Site) -> list[str]:
        return [self.binary, "run", "--config", str(site.folder / "meridian.toml")]

    def version(self) -> str:
        return self.version_by([self.binary, "version"], r"meridian (.*)")

    def write(self, site: Site, settings: Settings) -> None:
        """At once, by a rename."""
        new = site.folder / "new.toml"
        new.write_text(configuration(site, settings))
        new.rename(site.folder / "meridian.toml")

    def reload(self, running: Running) -> None:
        running.signal(signal.SIGHUP)

    def is_ready(self, running: Running) -> bool:
        return admin.is_ready(running.site.admin)

    def no_upgrade(self) -> str | None:
        said = subprocess.run([self.binary, "--help"], capture_output=True, text=True, check=False)
        line = next((line for line in said.stdout.splitlines() if line.startswith("  upgrade")), "")
        if not line or "not available" in line:
            return "this binary has no upgrade"
        return None

    def upgrade(self, running: Running) -> None:
        """In turn by the command and by SIGUSR2."""
        before = running_program(self.binary)
        self._upgrades += 1
        if self._upgrades % 2:
            self.upgrade_by_command(running, self.binary)
        else:
            os.kill(before[-1], signal.SIGUSR2)
        end = time.monotonic() + UPGRADE_SECONDS
        while time.monotonic() < end:
            new = set(running_program(self.binary)) - set(before)
            if new and client.wait_until_ready(running.site.admin, 1):
                return
            time.sleep(POLL_SECONDS)
        raise RuntimeError("upgrade: no new process")

    @staticmethod
    def upgrade_by_command(running: Running, program: str) -> None:
        """`program` asks for it. RuntimeError if it says that it failed."""
        argv = [program, "upgrade", "--admin", running.site.admin]
        try:
            said = subprocess.run(
                argv, capture_output=True, text=True, timeout=UPGRADE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise RuntimeError("upgrade: the command did not end") from late
        if said.returncode:
            raise RuntimeError(f"upgrade: {(said.stderr or said.stdout).strip()[-300:]}")


def configuration(site: Site, settings: Settings) -> str:
    log = settings.access_log or "off"
    geo = f'[geoip]\ndatabase = "{settings.geo_database}"\n' if settings.geo_database else ""
    return f"""
[edge]
id = "faults"
state_dir = "{settings.state or site.folder / "state"}"
worker_threads = {site.workers}
max_connections = {settings.max_connections}

[[listeners]]
name = "public"
address = "{site.address}"
protocols = ["http1", "h2c"]

[admin]
address = "{site.admin}"

[shutdown]
lame_duck = "0s"
grace = "5s"

[access_log]
output = "{log}"

{geo}
{regions(site)}
{services(site, settings)}
{routes(settings)}"""


def regions(site: Site) -> str:
    return "".join(
        f'[[regions]]\nid = "{region.name}"\nrole = "{region.role}"\n'
        f"priority = {region.priority}\n\n"
        for region in site.regions
    )


def services(site: Site, settings: Settings) -> str:
    text = ""
    for name in ("api", "bystander"):
        text += f'[[services]]\nname = "{name}"\npolicy = "priority"\n'
        text += '[services.health]\npath = "/health"\n\n'
        for endpoint in site.of(name):
            address = settings.names.get(endpoint.address, endpoint.address)
            weight = 100 + settings.edition % 3 * 10 if name == "api" else 100
            text += (
                f'[[services.endpoints]]\nregion = "{endpoint.region}"\n'
                f'address = "{address}"\nweight = {weight}\n\n'
            )
    return text


def routes(settings: Settings) -> str:
    """Editions differ in their number and in the endpoints' weights."""
    extra = "".join(
        f'[[routes]]\nname = "extra-{number}"\npath_prefix = "/extra-{number}"\nservice = "api"\n\n'
        for number in range(settings.edition % 5)
    )
    return (
        f'{extra}[[routes]]\nname = "bystander"\npath_prefix = "/bystander"\n'
        'service = "bystander"\n\n[[routes]]\nname = "all"\nservice = "api"\n'
    )


