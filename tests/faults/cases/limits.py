"""A machine that gives too little: descriptors, memory, disk."""

import subprocess
import time
from dataclasses import replace

from cases.base import Case
from edges.base import Settings
from harness import admin
from harness.judge import Check, at_least, at_most, none
from harness.memory import MemoryLimit
from harness.reconcile import SECOND
from harness.traffic import GETS, POSTS, SlowClients
from harness.trial import Trial, rounded
from lab import client

DESCRIPTORS = 256
SPINNING = 0.5  # of one CPU, by a proxy that has hardly anything to do
RECOVERY_SECONDS = 5.0
MEMORY = 256 << 20
HONEST = (200, 503)


class Limit(Case):
    """The load is turned away in part: each failure must be honest, and end with the cause."""

    def honest_and_over(self, trial: Trial) -> list[Check]:
        end = trial.healed_at + int(RECOVERY_SECONDS * SECOND)
        failed = [request for request in trial.of("get", "post") if request.failed]
        odd = sum(request.status not in (0, *HONEST) for request in failed)
        late = sum(request.began > end for request in failed)
        trial.figures |= {"failed_late": late}
        return [
            none("answers other than 200 and 503", odd),
            none(f"failed requests begun {RECOVERY_SECONDS:g} s after the end", late),
        ]


class Descriptors(Limit):
    name = "descriptors"
    title = "256 descriptors and a crowd of clients"

    # Fewer than usual: they and their connections to the endpoints fit.
    flows = (replace(GETS, clients=20, rate=150), replace(POSTS, clients=10, rate=60))

    def settings(self, trial: Trial) -> Settings:
        return Settings(prefix=("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"))

    def run(self, trial: Trial) -> None:
        trial.calm()
        trial.strike()
        crowd = SlowClients(
            trial.site.address, trial.folder, trial.site.cpus, heads=trial.plan.crowd
        )
        with crowd:
            watch = admin.Watch(lambda: float(admin.is_ready(trial.site.admin)), 0.1)
            trial.figures["crowd"] = crowd.connected()
            before, begun = trial.running.usage()["cpu_seconds"], time.monotonic()
            trial.hold()
            used = trial.running.usage()["cpu_seconds"] - before
            trial.figures["cpu_share"] = rounded(used / (time.monotonic() - begun))
            seen = [answer for _, answer in watch.close()]
        trial.figures["admin_asked"] = len(seen)
        trial.figures["admin_failed"] = sum(answer != 1 for answer in seen)
        trial.heal()
        trial.settle(trial.plan.settle + RECOVERY_SECONDS)
        served = client.call(trial.site.address, "GET", "/work", timeout=5)[0] == 200
        trial.figures["new_client_served"] = int(served)

    def checks(self, trial: Trial) -> list[Check]:
        seen = trial.figures
        return [
            at_least("a new client is served afterwards", seen["new_client_served"], 1),
            at_most("CPUs used beside the load", seen["cpu_share"], SPINNING),
            at_least("times the admin endpoint was asked", seen["admin_asked"], 10),
            none("times it did not answer", seen["admin_failed"]),
            *self.honest_and_over(trial),
        ]


class Memory(Limit):
    """Slow readers of 1 MiB answers and slow bodies, as many of each as the plan says."""

    name = "memory"
    title = "256 MiB of memory and a crowd of slow bodies and readers"
    needs = ("memory",)

    def __init__(self) -> None:
        self._limit: MemoryLimit | None = None

    def settings(self, trial: Trial) -> Settings:
        self._limit = MemoryLimit(MEMORY)
        return Settings(prefix=tuple(self._limit.prefix()))

    def run(self, trial: Trial) -> None:
        count = trial.plan.memory_crowd
        trial.calm()
        trial.strike()
        crowd = SlowClients(
            trial.site.address, trial.folder, trial.site.cpus, bodies=count, readers=count
        )
        with crowd:
            trial.figures["crowd"] = crowd.connected()
            trial.hold()
            trial.figures["rss_kib"] = trial.running.usage()["rss_kib"]
        trial.heal()
        trial.settle(trial.plan.settle + RECOVERY_SECONDS)
        peak = self._limit.peak()
        trial.figures["peak_mib"] = None if peak is None else round(peak / (1 << 20), 1)
        trial.figures["killed"] = self._limit.killed()

    def checks(self, trial: Trial) -> list[Check]:
        return [
            at_least("crowd", trial.figures["crowd"], trial.plan.memory_crowd),
            none("processes killed for want of memory", trial.figures["killed"]),
            none("lost requests", trial.figures["lost"]),
            *self.honest_and_over(trial),
        ]

    def clean(self) -> None:
        if self._limit:
            self._limit.remove()


class Disk(Case):
    """The access log and the state directory are on it."""

    name = "full-disk"
    title = "log on a full disk"
    short = True
    needs = ("sandbox",)
    size_kib = 32 << 10

    def settings(self, trial: Trial) -> Settings:
        self._disk = trial.folder / "disk"
        self._disk.mkdir()
        options = f"size={self.size_kib}k,mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "faults", self._disk], check=True)
        return Settings(access_log=self._disk / "access.log", state=self._disk / "state")

    def run(self, trial: Trial) -> None:
        log, filler = self._disk / "access.log", self._disk / "filler"
        trial.calm()
        trial.figures["log_bytes_before"] = log.stat().st_size
        trial.strike(lambda: fill(filler))
        trial.hold()
        text = admin.metrics(trial.site.admin)
        trial.figures["dropped_lines"] = admin.total(text, "meridian_access_log_dropped_total")
        full = log.stat().st_size
        trial.heal(filler.unlink)
        trial.settle()
        trial.figures["log_bytes_after_it"] = log.stat().st_size - full

    def checks(self, trial: Trial) -> list[Check]:
        seen = trial.figures
        return [
            at_least("bytes logged before", seen["log_bytes_before"], 1),
            at_least("lines counted as dropped", seen["dropped_lines"], 1),
            at_least("bytes logged afterwards", seen["log_bytes_after_it"], 1),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]

    def clean(self) -> None:
        subprocess.run(["umount", "-l", self._disk], check=False, capture_output=True)


def fill(file) -> None:
    """Takes all that is left."""
    with file.open("wb", buffering=0) as opened:
        for size in (1 << 20, 4096, 1):
            try:
                while opened.write(b"f" * size):
                    pass
            except OSError:
                continue
