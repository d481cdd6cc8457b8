"""No proxy: benches/src/bin/floor.rs, which carries bytes from one side to the other and looks at
none of them. What it costs is the kernel's, and a proxy that copies what it carries cannot cost
less.
"""

from proxies.base import Command, Proxy, Setup, Site


class Floor(Proxy):
    def configure(self, site: Site, setup: Setup) -> Command:
        return Command([self.binary, site.address("h1"), site.backends[0]])

    def check(self, command: Command) -> list[str]:
        return ["true"]

    def refusal(self, site: Site, setup: Setup) -> str | None:
        beyond = setup.listeners - {"h1"} or setup.log or setup.workers > 1
        return "it carries bytes and knows no protocol" if beyond else None

    def version(self) -> str:
        return "of this tree"
