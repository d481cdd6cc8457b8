"""Request smuggling: smugglex against listeners with and without TLS, before a real endpoint and
before one that trusts chunks more than lengths.
"""

import json
import subprocess

from front.edge import Settings
from harness import judge
from harness.judge import Check
from lab.backend import start_backend, wait_until_open
from lab.machine import first_line

from cases.base import Case, Place, tool

# All it has, those that must be asked for included; the last speaks HTTP/2 and wants TLS. Not its
# --fuzz: that sends lengths without bodies, and takes it for a sign that somebody waits for them.
CLEAR = "cl-te,te-cl,te-te,h2c,h2,cl-edge,cl-0,0-cl,parser-discrepancy"
TLS = CLEAR + ",h2-downgrade"
SECONDS = 120


class Smuggling(Case):
    name = "smugglex"
    title = "smugglex: request smuggling"
    programs = ("smugglex", "nginx")

    def version(self) -> str:
        return first_line([tool("smugglex"), "--version"], r"(\d+\.\d+\.\d+)")

    def run(self, place: Place) -> list[Check]:
        nginx = place.address()
        with start_backend(place.folder / "nginx", [nginx], place.cpus) as child:
            if not wait_until_open(nginx, child):
                raise RuntimeError("nginx did not start")
            believing = place.program("naive.py", place.address(), "endpoint")
            found = []
            for name, endpoint in (("nginx", nginx), ("a believing endpoint", believing)):
                with place.front(Settings(endpoint)) as front:
                    found += self._scan(f"http, {name}", f"http://{front.clear}/", CLEAR)
                    found += self._scan(f"https, {name}", f"https://{front.tls}/", TLS)
        naive = place.program("naive.py", place.address())
        control = self._scan("control", f"http://{naive}/", "cl-te")
        ran = self.figures["checks"]
        return [
            judge.none("found", len(found)),
            judge.at_least("checks that ran", ran, 2 * len((CLEAR + "," + TLS).split(","))),
            judge.at_least("found in a front that is naive", len(control), 1),
        ]

    def _scan(self, label: str, url: str, checks: str) -> list[str]:
        """What was found. RuntimeError if a check did not run."""
        argv = [tool("smugglex"), url, "--json", "--quiet", "--insecure", "--timeout", "3"]
        done = subprocess.run(
            [*argv, "--checks", checks],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        try:
            rows = json.loads(done.stdout)["results"][0]["checks"]
        except (ValueError, LookupError) as problem:
            raise RuntimeError(f"smugglex, {label}: {done.stderr[-500:]}") from problem
        found = [row["check_type"] for row in rows if row["vulnerable"]]
        if label == "control":
            self.figures["found in the control"] = found
        else:
            self.figures[label] = found
            self.figures["checks"] = self.figures.get("checks", 0) + len(rows)
        return found
