"""Caddy: an installed one, else that of requirements.txt."""

from proxies.base import Command, Proxy, Setup, Site


class Caddy(Proxy):
    logs = ("json",)

    def configure(self, site: Site, setup: Setup) -> Command:
        folder = self.folder(site)
        (folder / "Caddyfile").write_text(self._configuration(site, setup))
        argv = [self.binary, "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]
        return Command(
            argv,
            {
                "GOMAXPROCS": str(setup.workers),
                "XDG_DATA_HOME": str(folder),
                "XDG_CONFIG_HOME": str(folder),
            },
        )

    def check(self, command: Command) -> list[str]:
        return [command.argv[0], "validate", *command.argv[2:]]

    def version(self) -> str:
        return self.version_by([self.binary, "version"], r"v?(\d\S*)")

    def _configuration(self, site: Site, setup: Setup) -> str:
        upstreams = " ".join(site.backends)
        log = f"log {{\n    output file {self.log_file(site)} {{\n      roll_disabled\n    }}\n  }}"
        body = (
            f"{log if setup.log else ''}\n  reverse_proxy {upstreams} {{\n"
            "    lb_policy least_conn\n  }"
        )
        plain = ", ".join(
            f"http://{site.address(name)}" for name in sorted(setup.listeners - {"tls"})
        )
        text = (
            "{\n  admin off\n  auto_https off\n  servers {\n    protocols h1 h2 h2c\n  }\n}\n"
            f"{plain} {{\n  {body}\n}}\n"
        )
        if "tls" in setup.listeners:
            hosts = f"https://{site.address('tls')}, https://localhost:{site.ports['tls']}"
            keys = f"tls {site.folder}/cert.pem {site.folder}/key.pem"
            text += f"{hosts} {{\n  {keys}\n  {body}\n}}\n"
        return text
