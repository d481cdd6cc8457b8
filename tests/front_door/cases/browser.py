"""Chromium without a window: a page with its parts over HTTP/2 and TLS, forms, a stream of events
and a WebSocket. The page says by itself what it saw.
"""

import json
import time

from front.certificates import HOST
from front.edge import Settings
from harness import judge
from harness.judge import Check
from lab.machine import first_line
from lab.process import Child

from cases.base import Case, Place, tool

PARTS = ("stylesheet", "squares", "large", "form", "events", "websocket")
SECONDS = 60
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser(Case):
    name = "chromium"
    title = "Chromium: a page over HTTP/2"
    programs = ("chromium",)

    def version(self) -> str:
        return first_line([tool("chromium"), "--version"], r"Chromium (\S+)")

    def run(self, place: Place) -> list[Check]:
        report = place.folder / "report.json"
        sockets = place.program("echo.py", place.address())
        site = place.program("site.py", place.address(), str(report))
        with place.front(Settings(site, sockets)) as front:
            page = f"https://{HOST}:{front.tls.rpartition(':')[2]}/page"
            argv = [tool("chromium"), *FLAGS, f"--user-data-dir={place.folder / 'profile'}"]
            argv += [f"--ignore-certificate-errors-spki-list={place.authority.pins()}"]
            argv += [f"--host-resolver-rules=MAP {HOST} 127.0.0.1", page]
            log = place.folder / "chromium.log"
            with Child(argv, place.cpus, {"HOME": str(place.folder)}, log) as browser:
                end = time.monotonic() + SECONDS
                while not report.exists() and browser.is_running() and time.monotonic() < end:
                    time.sleep(0.1)
                time.sleep(0.2)
            if not report.exists():
                raise RuntimeError(f"no report: {log.read_text(errors='replace')[-800:]}")
            self.figures = json.loads(report.read_text())
        wrong = [
            f"{part}: {self.figures[part]['saw']}"
            for part in PARTS
            if not self.figures[part]["well"]
        ]
        protocols = self.figures["protocols"]
        return [
            judge.none("; ".join(["not as it should be", *wrong]), len(wrong)),
            judge.none("not over HTTP/2", sum(protocols.values()) - protocols.get("h2", 0)),
            judge.at_least("over HTTP/2", protocols.get("h2", 0), 60),
        ]
