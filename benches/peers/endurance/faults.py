"""What goes wrong: a region dies, freezes or restarts every 20 to 30 s, and the configuration
changes all the time.

The order is drawn from a seed: the same seed gives the same soak.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from pathlib import Path

from endurance.regions import Region, configuration
from lab import client
from lab.process import Child

KINDS = ("kill", "freeze", "restart")
DOWN_SECONDS = (4, 10)
EVERY_SECONDS = (20, 30)
RELOAD_SECONDS = 4


class Faults:
    """Region faults; `log` has what happened when."""

    def __init__(self, regions: list[Region], seed: int, start: float) -> None:
        self._regions, self._random, self._start = regions, random.Random(seed), start
        self.log: list[dict] = []

    async def run(self) -> None:
        turn, down = 0, 0.0
        while True:
            await asyncio.sleep(self._random.uniform(*EVERY_SECONDS) - down)
            region = self._random.choice(self._regions)
            kind = KINDS[turn % len(KINDS)]
            down = self._random.uniform(*DOWN_SECONDS)
            self.log.append(
                {
                    "at": round(time.monotonic() - self._start, 1),
                    "kind": kind,
                    "region": region.name,
                    "seconds": round(down, 1),
                }
            )
            await self._one(kind, region, down)
            turn += 1

    @staticmethod
    async def _one(kind: str, region: Region, down: float) -> None:
        if kind == "freeze":
            region.each("freeze")
            try:
                await asyncio.sleep(down)
            finally:
                region.each("thaw")
            return
        if kind == "kill":
            region.each("kill")
            await asyncio.sleep(down)
        else:
            await asyncio.to_thread(region.each, "stop")
        region.each("start")


class Reloads:
    """Editions of the configuration one after the other: by the admin API, by SIGHUP, by the file
    alone.
    """

    def __init__(self, folder: Path, ports: dict[str, int], regions: list[Region]) -> None:
        self._folder, self._ports, self._regions = folder, ports, regions
        self.edge: Child | None = None  # set once it is started, with the first edition
        self.ways: Counter[str] = Counter()
        self.milliseconds: list[float] = []
        self.refused: list[str] = []

    def write(self, edition: int) -> None:
        text = configuration(self._folder, self._ports, self._regions, edition)
        (self._folder / "new.toml").write_text(text)
        (self._folder / "new.toml").rename(self._folder / "meridian.toml")

    async def run(self) -> None:
        edition = 0
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            edition += 1
            self.write(edition)
            way = ("api", "signal", "file")[edition % 3]
            self.ways[way] += 1
            if way == "signal":
                self.edge.signal(signal.SIGHUP)
            if way == "api":
                await self._by_api()

    async def _by_api(self) -> None:
        try:
            seen = await asyncio.to_thread(client.reload_edge, f"127.0.0.1:{self._ports['admin']}")
        except OSError as problem:
            self.refused.append(type(problem).__name__)
            return
        self.milliseconds.append(round(seen["ms"], 2))
        if seen["error"]:
            self.refused.append(seen["error"])
