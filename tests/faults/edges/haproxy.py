"""HAProxy as its manual sets up checks: active ones, and an eye on live traffic beside them, with
the rhythm that Meridian's have by default; connections to a server that is down are cut;
repeating only what may be repeated.
"""

import resource
import signal

from edges.base import Edge, Running, Settings, Site


CHECKS = (
    "check inter 500ms fastinter 100ms fall 3 rise 2 "
    "observe layer4 error-limit 3 on-error mark-down on-marked-down shutdown-sessions"
)


class HAProxy(Edge):
    def command(self, site: Site) -> list[str]:
        return [self.binary, "-W", "-f", f"{site.folder}/haproxy.cfg"]

    def version(self) -> str:
        return self.version_by([self.binary, "-v"], r"HAProxy version (\S+)")

    def write(self, site: Site, settings: Settings) -> None:
        (site.folder / "haproxy.cfg").write_text(configuration(site, settings))

    def no_upgrade(self) -> str | None:
        return "with HAProxy's master process, every reload starts the binary anew"

    def reload(self, running: Running) -> None:
        """To the master process, which hands the sockets to the new worker."""
        running.child.signal(signal.SIGUSR2)


def configuration(site: Site, settings: Settings) -> str:
    backends = "\n".join(backend(site, settings, name) for name in ("api", "bystander"))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # It does not start unless two files for each connection are allowed.
    most = min(settings.max_connections, (files - 200) // 2)
    return f"""
global
  nbthread {site.workers}
  maxconn {most}
  hard-stop-after 30s
  stats socket {site.folder}/haproxy.sock mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 2s
  timeout queue 5s
  timeout http-request 10s
  timeout http-keep-alive 60s
  option forwardfor
  option redispatch 1
  retries 2
  retry-on conn-failure empty-response response-timeout
frontend public
  bind {site.address}
  use_backend bystander if {{ path_beg /bystander/ }}
  default_backend api
{backends}
"""


def backend(site: Site, settings: Settings, name: str) -> str:
    """Editions differ in the weights."""
    weight = 100 + settings.edition % 3 * 10
    servers = "\n".join(
        f"  server {endpoint.name} {endpoint.address} weight {weight}"
        for endpoint in site.of(name)
    )
    return f"""backend {name}
  balance leastconn
  option httpchk GET /health
  http-request disable-l7-retry unless {{ method GET HEAD OPTIONS TRACE }}
  default-server {CHECKS}
{servers}"""
