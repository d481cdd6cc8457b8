"""What the proxy depends on: names, and any region at all."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from cases.base import Case
from edges.base import Settings
from harness.judge import Check, at_least, at_most, none
from harness.reconcile import SECOND
from harness.traffic import PROGRAMS
from harness.trial import Trial, rounded
from harness.world import REGIONS, Endpoint
from lab.load import percentile
from lab.process import Child

NAME_SERVER = "127.0.0.1:53"
SOON_SECONDS = 2.0  # after which nobody may still wait for a region that is not there
FAST_MS = 250.0


class Names(Case):
    """Its name server refuses to help, then is gone. Endpoints are known by name only."""

    name = "names"
    title = "name resolution failing"
    needs = ("sandbox",)

    def settings(self, trial: Trial) -> Settings:
        """Its own resolv.conf, for this run's mounts only."""
        self._journal = trial.folder / "questions"
        self._journal.touch()
        table = {f"{endpoint.name}.pool.test": "127.0.0.1" for endpoint in trial.site.endpoints}
        argv = [sys.executable, str(PROGRAMS / "nameserver.py"), NAME_SERVER, str(self._journal)]
        log = trial.folder / "nameserver.log"
        self._server = Child([*argv, json.dumps(table)], trial.site.cpus, log=log)
        resolver = trial.folder / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        target = Path("/etc/resolv.conf").resolve()
        subprocess.run(["mount", "--bind", resolver, target], check=True)
        self._mounted = target
        return Settings(
            names={
                endpoint.address: f"{endpoint.name}.pool.test:{endpoint.port}"
                for endpoint in trial.site.endpoints
            }
        )

    def run(self, trial: Trial) -> None:
        trial.calm()
        trial.strike(lambda: self._server.signal(signal.SIGUSR1))
        trial.hold(trial.plan.failing_names)
        lines = self._journal.read_text().splitlines()
        trial.figures["names_failed"] = sum(line.endswith(" failed") for line in lines)
        self._server.kill()
        trial.hold(trial.plan.failing_names)
        trial.heal()
        trial.settle()

    def checks(self, trial: Trial) -> list[Check]:
        return [
            at_least("questions answered with an error", trial.figures["names_failed"], 1),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]

    def clean(self) -> None:
        self._server.stop()
        subprocess.run(["umount", "-l", self._mounted], check=False, capture_output=True)


class AllDown(Case):
    """Then nothing can be answered: but fast, with 503 and Retry-After."""

    name = "all-down"
    title = "all regions down"
    short = True
    regions = REGIONS

    def victims(self, trial: Trial) -> list[Endpoint]:
        return trial.api

    def run(self, trial: Trial) -> None:
        trial.calm()
        trial.strike(lambda: trial.backends.kill(*trial.api))
        trial.hold()
        trial.heal(lambda: trial.backends.start(*trial.api))
        trial.settle(trial.plan.settle + SOON_SECONDS)

    def checks(self, trial: Trial) -> list[Check]:
        begin = trial.fault_at + int(SOON_SECONDS * SECOND)
        main = trial.of("get", "post")
        down = [request for request in main if begin <= request.began < trial.healed_at]
        took = sorted(request.milliseconds for request in down)
        odd = sum(not (request.status == 503 and request.retry_after) for request in down)
        back = [request.ended for request in main if not request.failed]
        first = min((at for at in back if at > trial.healed_at), default=None)
        trial.figures |= {
            "asked_while_down": len(down),
            "down_p99_ms": rounded(percentile(took, 0.99)),
            "not_503_with_retry_after": odd,
            "back_s": rounded((first - trial.healed_at) / SECOND) if first else None,
        }
        return [
            at_least("requests while all was down", len(down), 100),
            none("answers other than 503 with Retry-After", odd),
            at_most("p99 of those answers", trial.figures["down_p99_ms"], FAST_MS, " ms"),
            at_most("time until the first answer", trial.figures["back_s"], SOON_SECONDS, " s"),
            none("neither answer nor honest error", trial.figures["lost"]),
            *trial.bystander_is_undisturbed(),
        ]
