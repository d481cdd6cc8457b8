"""Reads what run.py and soak.py wrote, and answers questions about medians.

Figures are compared only within one file: of a mode that several files have, the last file counts.
"""

import json
import statistics
from pathlib import Path


def load(paths: list[Path]) -> list[dict]:
    return [json.loads(path.read_text()) for path in paths]


class Results:
    def __init__(self, records: list[dict]) -> None:
        self.runs: list[dict] = []
        self.soak: dict | None = None
        self._by_mode: dict[str, list[dict]] = {}
        self._refused: dict[str, list[dict]] = {}
        self.run_of: dict[str, dict] = {}
        for record in records:
            if record["kind"] == "soak":
                self.soak = record
            else:
                self._add(record)

    def _add(self, run: dict) -> None:
        self.runs.append(run)
        for mode in dict.fromkeys(s["mode"] for s in run["measurements"] + run["unsupported"]):
            self.run_of[mode] = run
            self._by_mode[mode] = [s for s in run["measurements"] if s["mode"] == mode]
            self._refused[mode] = [s for s in run["unsupported"] if s["mode"] == mode]

    def has(self, mode: str) -> bool:
        return bool(self._by_mode.get(mode))

    def proxies(self, *modes: str) -> list[str]:
        """Meridians first, then the peers, in the order in which they were named."""
        names = [
            seen["proxy"]
            for mode in modes
            for seen in self._by_mode.get(mode, []) + self._refused.get(mode, [])
        ]
        return sorted(dict.fromkeys(names), key=lambda name: not is_meridian(name))

    def variants(self, mode: str, proxy: str) -> list[str]:
        return list(
            dict.fromkeys(
                seen["variant"] for seen in self._by_mode.get(mode, []) if seen["proxy"] == proxy
            )
        )

    def rounds(self, mode: str, proxy: str, key: str, variant: str = "default") -> dict[int, float]:
        """The figure by round; without the rounds in which it could not be taken."""
        return {
            seen["round"]: seen["figures"][key]
            for seen in self._by_mode.get(mode, [])
            if seen["proxy"] == proxy
            and seen["variant"] == variant
            and "error" not in seen["figures"]
            and seen["figures"].get(key) is not None
        }

    def median(self, mode: str, proxy: str, key: str, variant: str = "default") -> float | None:
        values = self.rounds(mode, proxy, key, variant).values()
        return statistics.median(values) if values else None

    def least(self, mode: str, proxy: str, key: str, variant: str = "default") -> float | None:
        """The figure of the quickest round."""
        return min(self.rounds(mode, proxy, key, variant).values(), default=None)

    def total(self, mode: str, proxy: str, key: str, variant: str = "default") -> float:
        return sum(self.rounds(mode, proxy, key, variant).values())

    def largest(self, key: str) -> float:
        values = [s["figures"].get(key) for mode in self._by_mode.values() for s in mode]
        return max((value for value in values if value is not None), default=0.0)

    def errors(self) -> list[dict]:
        return [
            seen for mode in self._by_mode.values() for seen in mode if "error" in seen["figures"]
        ]

    def refusals(self) -> list[dict]:
        return [seen for mode in self._refused.values() for seen in mode]

    def difference(self, mode: str, proxy: str, key: str, more: str, less: str) -> float | None:
        """Median over rounds of one variant minus another of the same round."""
        first, second = (self.rounds(mode, proxy, key, variant) for variant in (more, less))
        both = [first[number] - second[number] for number in first if number in second]
        return statistics.median(both) if both else None


def is_meridian(name: str) -> bool:
    return name.split("-")[0] == "meridian"


def is_peer(name: str) -> bool:
    """`floor` is no proxy: what it costs is the kernel's."""
    return not is_meridian(name) and name.split("-")[0] != "floor"


def main_meridian(results: Results, mode: str) -> str | None:
    """The build that is compared with the peers: the first that was named."""
    return next((name for name in results.proxies(mode) if is_meridian(name)), None)
