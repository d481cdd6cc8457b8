"""Configuration that changes under load, and files that are broken when they are read."""

import http.client
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cases.base import Case
from edges.base import Settings
from harness import ROOT, admin
from harness.judge import Check, at_least, at_most, none
from harness.trial import Trial
from lab import client

STORM_SECONDS = 0.1  # between two reloads
SETTLED_SECONDS = 2.0
NOTICED_SECONDS = 5.0  # until a broken file must be reported
RSS_SHARE, RSS_KIB, DESCRIPTORS, THREADS = 1.10, 4096, 16, 2
GEO_DATABASE = ROOT / "geoip" / "data" / "country.mmdb"
CLIENT, COUNTRY = "88.198.0.1", "DE"  # as the database has it


class Reload(Case):
    """Each edition changes the endpoints' weights; the proxy is told by its signal."""

    name = "reload"
    title = "a reload every second"
    peers = True

    def run(self, trial: Trial) -> None:
        trial.calm()
        for number in range(1, trial.plan.steady_reloads + 1):
            trial.running.write(replace(trial.running.settings, edition=number))
            trial.strike(lambda: trial.edge.reload(trial.running))
            time.sleep(1.0)
        trial.heal()
        trial.settle()
        trial.figures["reloads"] = trial.plan.steady_reloads

    def checks(self, trial: Trial) -> list[Check]:
        return [
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]


class ReloadStorm(Case):
    """By the admin API, which answers when the new table is in force."""

    name = "reload-storm"
    title = "ten reloads a second"
    short = True

    def run(self, trial: Trial) -> None:
        trial.calm()
        begun, done, first = time.monotonic(), 0, {}
        for number in range(1, trial.plan.reloads + 1):
            trial.running.write(replace(trial.running.settings, edition=number))
            trial.strike()
            done += reloaded(trial.site.admin) == 200
            if number == trial.plan.reloads // 5:
                first = trial.running.usage()
            time.sleep(max(begun + number * STORM_SECONDS - time.monotonic(), 0))
        trial.heal()
        trial.figures["reloads"] = done
        trial.figures["reload_seconds"] = round(time.monotonic() - begun, 1)
        time.sleep(SETTLED_SECONDS)
        last = trial.running.usage()
        for key in ("rss_kib", "descriptors", "threads"):
            trial.figures[key] = [first[key], last[key]]
        trial.settle()

    def checks(self, trial: Trial) -> list[Check]:
        seen = trial.figures
        rss, descriptors, threads = seen["rss_kib"], seen["descriptors"], seen["threads"]
        most = trial.plan.reloads * STORM_SECONDS * 1.2
        return [
            at_least("reloads that were taken", seen["reloads"], trial.plan.reloads),
            at_most("time for all reloads", seen["reload_seconds"], most, " s"),
            at_most("memory at the end", rss[1], round(rss[0] * RSS_SHARE + RSS_KIB), " KiB"),
            at_most("open files at the end", descriptors[1], descriptors[0] + DESCRIPTORS),
            at_most("threads at the end", threads[1], threads[0] + THREADS),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]


class BrokenFile(Case):
    """After each, a good file must be taken again."""

    name = "broken-file"
    title = "configuration file truncated, invalid, not text, gone, or not readable, at a reload"
    short = True

    def run(self, trial: Trial) -> None:
        file = trial.folder / "meridian.toml"
        good = file.read_bytes()
        accepted, silent, unlogged, stuck = [], [], [], []
        trial.calm()
        trial.strike()
        for name, damage in broken_ways(good).items():
            logged = len(trial.running.said())
            damage(file)
            if reloaded(trial.site.admin) == 200:
                accepted.append(name)
            if not noticed(trial, 0):
                silent.append(name)
            if "meridian.toml" not in trial.running.said()[logged:]:
                unlogged.append(name)
            mend(file, good)
            reloaded(trial.site.admin)
            if not noticed(trial, 1):
                stuck.append(name)
        trial.heal()
        trial.settle()
        trial.figures |= {
            "broken_files": list(broken_ways(good)),
            "accepted": accepted,
            "not_reported": silent,
            "not_logged": unlogged,
            "good_one_not_taken": stuck,
        }

    def checks(self, trial: Trial) -> list[Check]:
        seen = trial.figures
        return [
            none("broken files that were accepted", len(seen["accepted"])),
            none("broken files that no metric tells of", len(seen["not_reported"])),
            none("broken files that no log line tells of", len(seen["not_logged"])),
            none("good files not taken afterwards", len(seen["good_one_not_taken"])),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]


class Geo(Case):
    name = "geo-database"
    title = "geo database truncated in place, overwritten with noise, gone"

    def settings(self, trial: Trial) -> Settings:
        database = trial.folder / "geo.mmdb"
        shutil.copy(GEO_DATABASE, database)
        return Settings(geo_database=database)

    def run(self, trial: Trial) -> None:
        file = trial.running.settings.geo_database
        whole = file.read_bytes()
        trial.calm()
        trial.figures["known_before"] = int(knows_country(trial.site.admin))
        trial.strike()
        known = []
        for damage in (whole[: len(whole) // 2], b"\xff\x00noise" * (len(whole) // 7), b"", None):
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)  # in place: a mapped file would change under its reader
            reloaded(trial.site.admin)
            time.sleep(trial.plan.hold / 4)
            known.append(knows_country(trial.site.admin))
        trial.figures["known_after"] = sum(known)
        trial.figures["damages"] = len(known)
        trial.heal(lambda: file.write_bytes(whole))
        trial.settle()

    def checks(self, trial: Trial) -> list[Check]:
        seen = trial.figures
        return [
            at_least("the client's country is known before", seen["known_before"], 1),
            at_least("times it is known with a broken file", seen["known_after"], seen["damages"]),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]


def broken_ways(good: bytes) -> dict[str, Callable[[Path], object]]:
    return {
        "truncated": lambda file: file.write_bytes(good[: len(good) // 2 - 3]),
        "invalid": lambda file: file.write_bytes(good + b"\nnonsense = [\n"),
        "unknown key": lambda file: file.write_bytes(b"nonsense = 1\n" + good),
        "not text": lambda file: file.write_bytes(b"\xff\xfe\x00" + good),
        "gone": lambda file: file.unlink(),
        "a folder": lambda file: (file.unlink(), file.mkdir()),
    }


def mend(file: Path, text: bytes) -> None:
    if file.is_dir():
        file.rmdir()
    file.write_bytes(text)


def reloaded(address: str) -> int:
    """Status of POST /api/v1/reload; 0 without an answer."""
    try:
        return client.call(address, "POST", "/api/v1/reload", timeout=10)[0]
    except (OSError, http.client.HTTPException):
        return 0


def noticed(trial: Trial, value: float) -> bool:
    """Whether the metric of the last reload becomes this in time."""
    end = time.monotonic() + NOTICED_SECONDS
    while time.monotonic() < end:
        text = admin.metrics(trial.site.admin)
        if admin.total(text, "meridian_config_last_reload_success") == value:
            return True
        time.sleep(0.02)
    return False


def knows_country(address: str) -> bool:
    body = json.dumps({"client": CLIENT})
    return f'"{COUNTRY}"' in admin.ask(address, "/api/v1/explain", "POST", body)[1]
