"""What TLS offers, as sslyze and testssl.sh see it; and what they see at a server that offers too
much.
"""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from front.certificates import HOST
from front.edge import Settings
from harness import judge
from harness.judge import Check
from lab.machine import first_line

from cases.base import Case, Place, tool

# Of Mozilla's profiles, the one for a site that anybody may visit.
PROFILE = "intermediate"
WEAK = """
pid {folder}/weak.pid; error_log {folder}/weak.log error; daemon off; worker_processes 1;
events {{ worker_connections 512; }}
http {{ access_log off; server {{
 listen {address} ssl; ssl_certificate {pair}.pem; ssl_certificate_key {pair}.key;
 ssl_protocols TLSv1 TLSv1.1 TLSv1.2; ssl_ciphers ALL:COMPLEMENTOFALL:@SECLEVEL=0;
 location / {{ return 200 "weak"; }} }} }}
"""
SECONDS = 300


def weak_server(place: Place) -> str:
    """nginx with versions and suites that nobody should offer any more."""
    address, config = place.address(), place.folder / "weak.conf"
    pair = place.authority.folder / "rsa"
    config.write_text(WEAK.format(folder=place.folder, address=address, pair=pair))
    return place.serve("nginx", ["nginx", "-c", str(config)], address)


class Sslyze(Case):
    name = "sslyze"
    title = "sslyze: Mozilla's profile"
    programs = ("sslyze", "nginx", "openssl")

    def version(self) -> str:
        return first_line([tool("sslyze"), "--help"], r"SSLyze version (\S+)")

    def run(self, place: Place) -> list[Check]:
        site = place.program("site.py", place.address())
        with place.front(Settings(site)) as front:
            own = self._complaints(place, front.tls)
        control = self._complaints(place, weak_server(place))
        self.figures |= {"complaints": own, "control": control}
        return [
            judge.none(f"not as the profile {PROFILE} has it", len(own)),
            judge.at_least("found in a server that offers too much", len(control), 2),
        ]

    @staticmethod
    def _complaints(place: Place, address: str) -> list[str]:
        """RuntimeError if it was not scanned."""
        argv = [tool("sslyze"), f"--mozilla_config={PROFILE}", "--sni", HOST]
        argv += ["--certinfo_ca_file", str(place.authority.root), address]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
        _, _, verdict = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")
        if "OK - Compliant" in verdict and done.returncode == 0:
            return []
        if "FAILED - Not compliant" not in verdict:
            raise RuntimeError(f"sslyze: {(done.stdout + done.stderr)[-800:]}")
        return [line.strip() for line in verdict.splitlines() if line.strip().startswith("* ")]


# Several processes, as most of the time is spent waiting.
SECTIONS = (
    ("-p", "-s", "-f", "-P"),
    ("-S", "-h"),
    ("-U",),
)
BAD = ("MEDIUM", "HIGH", "CRITICAL", "FATAL", "WARN")
# What is not held against the edge: severity and id, and why.
EXCUSED = {
    ("WARN", "sessionresumption_ticket"): (
        "its openssl may end before the ticket has come; tests/tests/session_tickets.rs resumes"
    ),
}


class Testssl(Case):
    name = "testssl.sh"
    title = "testssl.sh: versions, suites, certificates, headers, known attacks"
    programs = ("testssl", "nginx", "openssl")

    def version(self) -> str:
        # Asking it takes seconds: it looks at the whole machine first.
        return first_line(["grep", "-m1", "VERSION=", tool("testssl")], r'VERSION="(\S+)"')

    def run(self, place: Place) -> list[Check]:
        site = place.program("site.py", place.address())
        with place.front(Settings(site)) as front, ThreadPoolExecutor(len(SECTIONS)) as pool:
            scans = [
                pool.submit(scanned, place, front.tls, f"own-{number}", *section)
                for number, section in enumerate(SECTIONS)
            ]
            said = [line for scan in scans for line in scan.result()]
        control = scanned(place, weak_server(place), "control", "-p", "-s")
        self.figures = {
            "said": len(said),
            "bad": [told(line) for line in said if is_bad(line)],
            "excused": [
                f"{told(line)} ({reason})"
                for line in said
                if (reason := EXCUSED.get((line["severity"], line["id"])))
            ],
            "low": [told(line) for line in said if line["severity"] == "LOW"],
            "control": [told(line) for line in control if is_bad(line)],
        }
        return [
            judge.none("of severity MEDIUM or above, or not checked", len(self.figures["bad"])),
            judge.at_least("findings of any severity", len(said), 90),
            judge.at_least(
                "found in a server that offers too much", len(self.figures["control"]), 2
            ),
        ]


def scanned(place: Place, address: str, name: str, *section: str) -> list[dict]:
    """All that it says. RuntimeError if it did not come to its end."""
    file: Path = place.folder / f"testssl-{name}.json"
    argv = [tool("testssl"), "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none"]
    argv += ["--add-ca", str(place.authority.root), "--jsonfile", str(file), *section]
    done = subprocess.run(
        [*argv, f"https://{address}"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError) as problem:
        raise RuntimeError(f"testssl.sh {section}: {done.stdout[-500:]}") from problem
    return said


def is_bad(line: dict) -> bool:
    return line["severity"] in BAD and (line["severity"], line["id"]) not in EXCUSED


def told(line: dict) -> str:
    return f"{line['severity']} {line['id']}: {line['finding']}"
