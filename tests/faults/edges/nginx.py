"""nginx as its admin guide sets up a load balancer: passive checks (active ones are not in the
free version), a shared zone, keep-alive to the endpoints, the next endpoint on errors and timeouts.

Its timeouts of 60 s are lowered to those that Meridian comes with, or no answer from a silent
endpoint would be in time.
"""

import os
import signal
import time

from edges.base import Edge, Running, Settings, Site
from lab import client

UPGRADE_SECONDS = 10


class Nginx(Edge):
    # It takes no USR2 while the parent that it had at its start is there: that one goes at once.
    upgrade_prefix = ("sh", "-c", '( "$@" & sleep 0.5 ); exec sleep infinity', "sh")

    def command(self, site: Site) -> list[str]:
        return [self.binary, "-c", f"{site.folder}/nginx.conf"]

    def version(self) -> str:
        return self.version_by([self.binary, "-v"], r"nginx/(\S+)")

    def write(self, site: Site, settings: Settings) -> None:
        (site.folder / "nginx.conf").write_text(configuration(site, settings))

    def reload(self, running: Running) -> None:
        running.child.signal(signal.SIGHUP)

    def no_upgrade(self) -> str | None:
        return None

    def upgrade(self, running: Running) -> None:
        """USR2 to the master, QUIT once there is another."""
        pid_file = running.site.folder / "nginx.pid"
        old = int(pid_file.read_text())
        os.kill(old, signal.SIGUSR2)
        end = time.monotonic() + UPGRADE_SECONDS
        while time.monotonic() < end:
            text = pid_file.read_text() if pid_file.exists() else ""
            if text.strip() not in ("", str(old)) and client.accepts(running.site.address):
                os.kill(old, signal.SIGQUIT)
                return
            time.sleep(0.02)
        raise RuntimeError("upgrade: no new master process")


def configuration(site: Site, settings: Settings) -> str:
    folder = site.folder
    upstreams = "\n".join(
        f" upstream {name} {{ zone {name} 64k; least_conn; {servers(site, settings, name)} "
        f"keepalive 64; }}"
        for name in ("api", "bystander")
    )
    return f"""
worker_processes {site.workers}; pid {folder}/nginx.pid; daemon off;
worker_shutdown_timeout 30s;
error_log {folder}/error.log crit;
events {{ worker_connections {settings.max_connections}; }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxied;
 proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
 proxy_connect_timeout 1s; proxy_read_timeout 2s; proxy_next_upstream error timeout;
{upstreams}
 server {{ listen {site.address} backlog=4096;
  location / {{ proxy_pass http://api; }}
  location /bystander/ {{ proxy_pass http://bystander; }} }} }}
"""


def servers(site: Site, settings: Settings, name: str) -> str:
    """Editions differ in the weights."""
    weight = 10 + settings.edition % 3
    return " ".join(
        f"server {endpoint.address} weight={weight} max_fails=1 fail_timeout=10s;"
        for endpoint in site.of(name)
    )
