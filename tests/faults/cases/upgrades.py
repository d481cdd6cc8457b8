"""A new binary takes the sockets over."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

from cases.base import Case
from edges.base import Edge, Settings, running_program
from edges.meridian import Meridian
from harness import admin
from harness.judge import Check, at_least, none
from harness.trial import Trial

SETTLED_SECONDS = 1.0  # between two upgrades
GONE_SECONDS = 15.0  # until the old processes must have ended
WATCH_SECONDS = 10.0


class Upgrade(Case):
    """Meridian in turn by its command and by SIGUSR2, nginx by USR2 and QUIT."""

    name = "upgrade"
    title = "binary upgrades, one after the other"
    short = True
    needs = ("sandbox",)
    peers = True

    def refusal(self, edge: Edge) -> str | None:
        return edge.no_upgrade()

    def settings(self, trial: Trial) -> Settings:
        return Settings(prefix=trial.edge.upgrade_prefix)

    def run(self, trial: Trial) -> None:
        trial.calm()
        done, failures = 0, []
        for _ in range(trial.plan.upgrades):
            try:
                trial.strike(lambda: trial.edge.upgrade(trial.running))
                done += 1
            except RuntimeError as problem:
                failures.append(str(problem))
            time.sleep(SETTLED_SECONDS)
        trial.heal()
        trial.settle()
        end = time.monotonic() + (GONE_SECONDS if trial.edge.is_meridian else 0)
        while len(running_program(trial.edge.binary)) > 1 and time.monotonic() < end:
            time.sleep(0.1)
        trial.figures |= {"upgrades": done, "upgrade_failures": failures}
        trial.figures["processes"] = len(running_program(trial.edge.binary))

    def checks(self, trial: Trial) -> list[Check]:
        seen = trial.figures
        checks = [
            at_least("upgrades that were done", seen["upgrades"], trial.plan.upgrades),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]
        if trial.edge.is_meridian:
            checks.append(none("old processes left", seen["processes"] - 1))
        return checks


class FailedUpgrade(Case):
    """Once the new binary ends at once; once it is killed as soon as it is seen."""

    name = "failed-upgrade"
    title = "an upgrade to a binary that crashes"
    short = True
    needs = ("sandbox",)

    def refusal(self, edge: Edge) -> str | None:
        return edge.no_upgrade()

    def prepared(self, edge: Edge, folder: Path) -> Edge:
        """A copy, which can be replaced."""
        shutil.copy(edge.binary, folder / "meridian")
        return Meridian(edge.name, str(folder / "meridian"))

    def run(self, trial: Trial) -> None:
        copy = Path(trial.edge.binary)
        good = copy.with_name("good")
        shutil.copy(copy, good)
        trial.calm()
        trial.strike()
        accepted = 0
        copy.unlink()
        copy.write_text("#!/bin/sh\nexit 3\n")
        copy.chmod(0o755)
        accepted += self._tried(trial, good)
        shutil.copy(good, copy.with_name("again"))
        copy.with_name("again").rename(copy)
        killer = threading.Thread(target=kill_newcomer, args=(str(copy),))
        killer.start()
        self._tried(trial, good)
        killer.join()
        trial.hold()
        trial.heal()
        trial.settle()
        trial.figures["crashing_binary_accepted"] = accepted
        trial.figures["ready"] = int(admin.is_ready(trial.site.admin))

    @staticmethod
    def _tried(trial: Trial, client_binary: Path) -> int:
        """With the client of a good binary: that under test may be the broken one."""
        try:
            trial.edge.upgrade_by_command(trial.running, str(client_binary))
        except RuntimeError:
            return 0
        return 1

    def checks(self, trial: Trial) -> list[Check]:
        seen = trial.figures
        return [
            none("upgrades to a crashing binary said to be done", seen["crashing_binary_accepted"]),
            at_least("it is ready afterwards", seen["ready"], 1),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]


def kill_newcomer(binary: str) -> None:
    """Kills the first process that runs the program from now on."""
    before = set(running_program(binary))
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        if new := set(running_program(binary)) - before:
            for pid in new:
                os.kill(pid, signal.SIGKILL)
            return
