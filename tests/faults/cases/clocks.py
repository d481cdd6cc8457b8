"""Time that jumps, and a proxy that stood still: no endpoint is to blame."""

import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path

from cases.base import Case
from edges.base import Edge, Settings
from harness import admin, sandbox
from harness.judge import Check, at_least
from harness.reconcile import SECOND
from harness.trial import Trial

HOUR = 3600
AFTER_SECONDS = 1.0  # all endpoints must be in use again
CACHE_SECONDS = "1"  # for which the false clock is read from its file


class NobodyIsToBlame(Case):
    """All endpoints stay in: by the edge's own account, and by who answers."""

    def watched(self, trial: Trial) -> admin.Watch:
        return admin.Watch(lambda: admin.endpoints_up(trial.site.admin))

    def stayed(self, trial: Trial, watch: admin.Watch, since: int) -> None:
        """Counts what was seen from `since` on."""
        up = [count for at, count in watch.close() if at >= since and count is not None]
        trial.figures["endpoints"] = len(trial.api)
        trial.figures["fewest_endpoints_up"] = min(up, default=0)

    def all_stay_in(self, trial: Trial) -> list[Check]:
        begin = trial.healed_at
        end = begin + int(AFTER_SECONDS * SECOND)
        servers = {entry.server for entry in trial.applied if begin <= entry.at < end}
        used = len(servers & {endpoint.name for endpoint in trial.api})
        trial.figures["endpoints_used_afterwards"] = used
        seen = trial.figures
        return [
            at_least("endpoints up throughout", seen["fewest_endpoints_up"], seen["endpoints"]),
            at_least("endpoints in use in the second after", used, seen["endpoints"]),
        ]


class Clock(NobodyIsToBlame):
    """The wall clock alone, by libfaketime, which only a dynamically linked binary takes.

    The machine's own clock belongs to everybody on it, and a time namespace does not have a wall
    clock of its own. That the jumps were seen is read from the access log.
    """

    name = "clock"
    title = "wall clock an hour ahead, then an hour back"
    needs = ("faketime",)

    def refusal(self, edge: Edge) -> str | None:
        if b"\x00libc.so.6\x00" not in Path(edge.binary).read_bytes():
            return "a static binary: its clock cannot be moved from outside"
        return None

    def settings(self, trial: Trial) -> Settings:
        self._file = trial.folder / "clock"
        self._file.write_text("+0")
        return Settings(
            access_log=trial.folder / "access.log",
            env={
                "LD_PRELOAD": str(sandbox.faketime_library()),
                "FAKETIME_TIMESTAMP_FILE": str(self._file),
                "FAKETIME_CACHE_DURATION": CACHE_SECONDS,
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            },
        )

    def run(self, trial: Trial) -> None:
        trial.calm()
        watch = self.watched(trial)
        trial.strike()
        jumps = []
        for offset in (HOUR, -HOUR):
            new = self._file.with_suffix(".new")
            new.write_text(f"{offset:+d}")
            new.rename(self._file)
            trial.hold()
            jumps.append(last_logged(trial.running.settings.access_log) - time.time())
        trial.heal()
        trial.settle(max(trial.plan.settle, AFTER_SECONDS))
        self.stayed(trial, watch, trial.fault_at)
        trial.figures["jumps_s"] = [round(jump) for jump in jumps]

    def checks(self, trial: Trial) -> list[Check]:
        forward, back = trial.figures["jumps_s"]
        return [
            at_least("jump ahead that it saw", forward, HOUR - 60, " s"),
            at_least("jump back that it saw", -back, HOUR - 60, " s"),
            *self.all_stay_in(trial),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
        ]


class Stopped(NobodyIsToBlame):
    """Clients wait longer than it stands still."""

    name = "stopped"
    title = "the proxy itself stopped and continued"

    def patience(self, trial: Trial) -> float:
        return trial.plan.stop + trial.plan.patience

    def run(self, trial: Trial) -> None:
        trial.calm()
        watch = self.watched(trial)
        trial.strike(lambda: trial.running.signal(signal.SIGSTOP))
        trial.hold(trial.plan.stop)
        trial.heal(lambda: trial.running.signal(signal.SIGCONT))
        trial.settle(max(trial.plan.hold, AFTER_SECONDS))
        self.stayed(trial, watch, trial.healed_at)
        trial.figures["stopped_s"] = trial.plan.stop

    def checks(self, trial: Trial) -> list[Check]:
        return [*self.all_stay_in(trial), *trial.no_failed_get(), *trial.no_failed_post()]


def last_logged(log: Path) -> float:
    """Unix time of the last whole line."""
    with log.open("rb") as opened:
        opened.seek(max(os.fstat(opened.fileno()).st_size - 8192, 0))
        line = opened.read().split(b"\n")[-2]
    return datetime.fromisoformat(json.loads(line)["time"]).timestamp()
