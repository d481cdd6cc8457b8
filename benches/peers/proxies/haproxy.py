"""HAProxy with shared connections to the backends."""

import resource
from pathlib import Path

from proxies.base import Command, Proxy, Setup, Site


class HAProxy(Proxy):
    logs = ("stdout", "udp")  # lines into a file by way of stdout, or datagrams to a syslog address

    def configure(self, site: Site, setup: Setup) -> Command:
        folder = self.folder(site)
        (folder / "haproxy.cfg").write_text(self._configuration(site, setup))
        return Command([self.binary, "-f", f"{folder}/haproxy.cfg"])

    def check(self, command: Command) -> list[str]:
        return [*command.argv, "-c"]

    def version(self) -> str:
        return self.version_by([self.binary, "-v"], r"HAProxy version (\S+)")

    def log_file(self, site: Site) -> Path:
        return self.folder(site) / "output.log"

    def _configuration(self, site: Site, setup: Setup) -> str:
        servers = "\n".join(
            f"  server s{number} {address} pool-max-conn 512"
            for number, address in enumerate(site.backends)
        )
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # It does not start unless two files for each connection are allowed.
        most = min(setup.max_connections, (files - 200) // 2)
        return f"""
global
  nbthread {setup.workers}
  maxconn {most}
  tune.ssl.cachesize 0
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  http-reuse always
  option forwardfor
{self._log(site, setup)}
frontend f
{self._binds(site, setup)}
  default_backend b
backend b
  balance leastconn
{servers}
"""

    @staticmethod
    def _log(site: Site, setup: Setup) -> str:
        targets = {"stdout": "stdout format raw", "udp": site.address("syslog")}
        return f"  log {targets[setup.log]} local0\n  option httplog" if setup.log else ""

    @staticmethod
    def _binds(site: Site, setup: Setup) -> str:
        options = {
            "h1": "",
            "h2": "proto h2",
            "tls": f"ssl crt {site.folder}/both.pem alpn h2,http/1.1 no-tls-tickets "
            "ssl-min-ver TLSv1.3",
        }
        return "\n".join(
            f"  bind {site.address(name)} {options[name]}" for name in sorted(setup.listeners)
        )
