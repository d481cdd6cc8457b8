"""Meridian before the endpoints of a case: one listener in the clear, one with TLS."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from harness import admin
from lab.process import Child

from front.certificates import Authority

START_SECONDS = 20.0
# What a site that is served to browsers sets.
SECURITY_HEADERS = (
    "Content-Security-Policy = \"default-src 'self'\"",
    'X-Content-Type-Options = "nosniff"',
    'X-Frame-Options = "DENY"',
)


@dataclass(frozen=True)
class Settings:
    """Where things are, and what a case wants otherwise than usual."""

    site: str  # address of the endpoint that answers
    sockets: str = ""  # address of the endpoint under /ws
    limits: tuple[str, ...] = ()  # lines of [limits]
    timeouts: tuple[str, ...] = ()  # lines of [services.timeouts]
    workers: int = 2


class Front:
    """The process. Gone after the block."""

    def __init__(
        self, binary: str, folder: Path, cpus: str, ports: list[int], authority: Authority
    ) -> None:
        self._binary, self._folder, self._cpus = os.path.realpath(binary), folder, cpus
        self._authority = authority
        self.clear, self.tls, self.admin = (f"127.0.0.1:{port}" for port in ports[:3])
        self.child: Child | None = None

    def start(self, settings: Settings) -> "Front":
        """RuntimeError, with what it said, if it is not ready in time."""
        config = self._folder / "meridian.toml"
        config.write_text(self._configuration(settings))
        argv = [self._binary, "run", "--config", str(config)]
        self.child = Child(argv, self._cpus, log=self._folder / "meridian.log")
        end = time.monotonic() + START_SECONDS
        while not admin.is_ready(self.admin):
            if not self.child.is_running() or time.monotonic() > end:
                self.child.stop()
                raise RuntimeError(f"Meridian did not start: {self.said()[-1500:]}")
            time.sleep(0.02)
        return self

    def __enter__(self) -> "Front":
        return self

    def __exit__(self, *_) -> None:
        if self.child:
            self.child.stop()

    def said(self) -> str:
        return (self._folder / "meridian.log").read_text(errors="replace")

    def access_log(self) -> str:
        return (self._folder / "access.log").read_text(errors="replace")

    def metric(self, name: str, *labels: str) -> float:
        """The sum of its series with these labels; 0 if there is none."""
        return admin.total(admin.metrics(self.admin), name, *labels) or 0.0

    def _configuration(self, settings: Settings) -> str:
        limits = "\n".join(settings.limits)
        services = service("site", settings.site, settings.timeouts)
        routes = route("all", "site")
        if settings.sockets:
            services += service("sockets", settings.sockets, ())
            routes = route("sockets", "sockets", 'path_prefix = "/ws"') + routes
        return f"""
[edge]
id = "front-door"
state_dir = "{self._folder / "state"}"
worker_threads = {settings.workers}
max_connections = 4000

[admin]
address = "{self.admin}"

[shutdown]
lame_duck = "0s"
grace = "2s"

[access_log]
output = "{self._folder / "access.log"}"

[limits]
{limits}

[[listeners]]
name = "clear"
address = "{self.clear}"
protocols = ["http1", "h2c"]

[[listeners]]
name = "tls"
address = "{self.tls}"
hsts = {{ max_age = "17520h", include_subdomains = true }}
{self._authority.listener_lines()}

[[regions]]
id = "here"
role = "primary"

{services}
{routes}"""


def service(name: str, address: str, timeouts: tuple[str, ...]) -> str:
    lines = "\n".join(timeouts)
    return (
        f'[[services]]\nname = "{name}"\n[services.health]\nkind = "tcp"\n'
        f"[services.timeouts]\n{lines}\n"
        f'[[services.endpoints]]\nregion = "here"\naddress = "{address}"\n\n'
    )


def route(name: str, to: str, *lines: str) -> str:
    more = "\n".join(lines)
    return (
        f'[[routes]]\nname = "{name}"\nservice = "{to}"\n{more}\n'
        f"response_headers.set = {{ {', '.join(SECURITY_HEADERS)} }}\n\n"
    )
