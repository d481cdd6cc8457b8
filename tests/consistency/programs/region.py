#!/usr/bin/env python3
"""The example application of docs/examples, as it is, with a journal of what reaches it.

region.py REGION CONNINFO JOURNAL ADDRESS:PORT[=MS],... [--no-fencing]

Every write is written down when it has arrived, before anything is done, and when it was answered;
so is every change of what the database is. A line goes out in one write: a kill loses none. MS is
how long a request to that address is on its way: a distance.
"""

import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "docs" / "examples"))

import taking_part


class Journal:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        # A region that was killed goes on in the same journal.
        self._numbers = itertools.count(os.getpid() * 1_000_000_000)
        self._state: tuple | None = None
        self._changed = 0
        self._lock = threading.Lock()

    def note(self, what: str, **more) -> None:
        entry = {"what": what, "at": time.monotonic_ns(), **more}
        os.write(self._file, (json.dumps(entry) + "\n").encode())

    def number(self) -> int:
        return next(self._numbers)

    def note_state(self, state: dict, asked: int) -> None:
        """Only changes, and not what was asked for before the last one was noted."""
        found = (state["epoch"], state["role"])
        with self._lock:
            if state["epoch"] is not None and found != self._state and asked > self._changed:
                self._state = found
                self.note("state", epoch=state["epoch"], role=state["role"])
                self._changed = time.monotonic_ns()


class Database(taking_part.Database):
    journal: Journal

    def state(self) -> dict:
        asked = time.monotonic_ns()
        state = super().state()
        self.journal.note_state(state, asked)
        return state


class Handler(taking_part.Handler):
    journal: Journal
    database: Database
    seconds = 0.0
    number: int | None = None

    def guarded(self, answer) -> None:
        if self.seconds:
            time.sleep(self.seconds)
        super().guarded(answer)

    def post(self) -> None:
        self.number = self.journal.number()
        wanted = self.headers.get("Meridian-Epoch")
        self.journal.note(
            "arrived",
            number=self.number,
            id=self.headers.get("X-Op", ""),
            edge=self.headers.get("X-Edge", ""),
            wanted=int(wanted) if wanted else None,
        )
        super().post()

    def answer(self, status: int, body: dict, state: dict | None = None) -> None:
        if self.number is not None:
            epoch = body.get("epoch") if status == 201 else None
            self.journal.note("done", number=self.number, status=status, epoch=epoch)
            self.number = None
        super().answer(status, body, state)


def main() -> None:
    region, conninfo, path, addresses, *more = sys.argv[1:]
    journal = Journal(path)
    database = Database(region, conninfo, fencing="--no-fencing" not in more)
    database.journal = journal
    threading.Thread(target=database.beat, daemon=True).start()
    servers = []
    for place in addresses.split(","):
        address, _, delay = place.partition("=")
        host, _, port = address.rpartition(":")
        own = {"database": database, "journal": journal, "seconds": int(delay or 0) / 1000}
        handler = type("Bound", (Handler,), own)
        servers.append(taking_part.Server((host, int(port)), handler))
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
