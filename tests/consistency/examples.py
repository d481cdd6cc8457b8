"""The part that holds both examples of docs/examples to the same contract, with no edge between."""

import http.client
import json
import shutil
import sys
import time

from harness import judge
from harness.judge import Check
from lab import client
from lab.ports import free_ports
from lab.process import Child
from parts import Part
from topology import ROOT

SOURCES = ROOT / "docs" / "examples"
NODE = ROOT / "target" / "consistency-node"


class Examples(Part):
    name = "examples"
    title = "The example applications, in Python and in Node"

    def lacking(self) -> str | None:
        if not shutil.which("node"):
            return "Node is not installed"
        return None if (NODE / "node_modules" / "pg").exists() else "pg is not installed for Node"

    def edge_names(self) -> tuple[str, ...]:
        return ()

    def run(self) -> list[Check]:
        for region in self.site.regions.values():
            region.kill_application()
        wrong = {language: self._faults(language) for language in ("python", "node")}
        self.figures["wrong"] = wrong
        return [
            judge.none(
                f"answers of the example in {language} that are not as they must be", len(found)
            )
            for language, found in wrong.items()
        ]

    def _command(self, language: str, region: str, address: str) -> list[str]:
        database = self.site.regions[region].database
        where = ["--region", region, "--listen", address, "--database"]
        if language == "python":
            return [sys.executable, str(SOURCES / "taking_part.py"), *where, database.conninfo]
        shutil.copy(SOURCES / "taking_part.mjs", NODE / "taking_part.mjs")  # beside what it imports
        url = f"postgres://postgres@/app?host={database.folder}&port=5432"
        return ["node", str(NODE / "taking_part.mjs"), *where, url]

    def _faults(self, language: str) -> list[str]:
        """What the primary and a replica answer otherwise than they must."""
        self._wrong: list[str] = []
        addresses = {
            region: f"127.0.0.1:{port}" for region, port in zip(("r1", "r2"), free_ports(2))
        }
        children = [
            Child(
                self._command(language, region, address),
                self.setting.cpus,
                log=self.folder / f"{language}-{region}.log",
            )
            for region, address in addresses.items()
        ]
        try:
            self._until_ready(addresses, children)
            self._contract(language, addresses["r1"], addresses["r2"])
        except (RuntimeError, OSError, http.client.HTTPException) as problem:
            self._wrong.append(f"{type(problem).__name__}: {problem}")
        finally:
            for child in children:
                child.stop()
        return self._wrong

    def _until_ready(self, addresses: dict[str, str], children: list[Child]) -> None:
        end = time.monotonic() + 20
        for address, role in zip(addresses.values(), ("primary", "replica")):
            while not client.accepts(address) or self._status(address).get("role") != role:
                if time.monotonic() > end or not all(child.is_running() for child in children):
                    raise RuntimeError(f"the application does not become {role}")
                time.sleep(0.05)

    @staticmethod
    def _status(address: str) -> dict:
        return json.loads(client.call(address, "GET", "/meridian/status", timeout=5)[1])

    def _ask(self, address: str, method: str, path: str, body=None, epoch=None):
        """Status, JSON, and what it says of itself in headers."""
        connection = http.client.HTTPConnection(*client.split(address), timeout=5)
        headers = {} if epoch is None else {"Meridian-Epoch": str(epoch)}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            told = {key.lower(): value for key, value in answer.getheaders()}
            return answer.status, json.loads(answer.read()), told
        finally:
            connection.close()

    def _expect(self, what: str, is_so: bool, seen) -> None:
        if not is_so:
            self._wrong.append(f"{what}: {seen}")

    def _contract(self, language: str, primary: str, replica: str) -> None:
        path, note = f"/notes/{language}", json.dumps({"id": language, "value": "x"})
        status = self._status(primary)
        names = {"role", "epoch", "position", "lag_ms"}
        self._expect("status path", set(status) == names and status["lag_ms"] == 0, status)
        epoch = status["epoch"]

        seen = self._ask(primary, "POST", path, note, epoch)
        told = [seen[2].get(f"meridian-{name}") for name in ("role", "epoch")]
        self._expect("a write is done", seen[0] == 201 and seen[1]["version"] == 1, seen)
        self._expect("a write tells role and epoch", told == ["primary", str(epoch)], seen)
        position = int(seen[2].get("meridian-position", "0"))
        self._expect("a write moves the position", position > status["position"], seen)

        for wanted in (None, epoch):
            seen = self._ask(replica, "POST", path, note, wanted)
            told = seen[2].get("meridian-role")
            self._expect("a replica refuses a write", (seen[0], told) == (421, "replica"), seen)
        self._until_replayed(replica, position)
        seen = self._ask(replica, "GET", path)
        self._expect(
            "a replica has the write", seen[:2][0] == 200 and seen[1]["version"] == 1, seen
        )
        lag = int(seen[2].get("meridian-lag-ms", "-1"))
        self._expect("a replica tells its lag", 0 <= lag < 5000, seen)
        self._expect("no such note", self._ask(replica, "GET", path + "-not")[0] == 404, "")
        for body in ("{", "[]", '{"id": 1}', "null"):
            self._expect(
                "a bad body", self._ask(primary, "POST", path, body, epoch)[0] == 400, body
            )
        long = json.dumps({"id": "1", "value": "x" * 70_000})
        self._expect("a long body", self._ask(primary, "POST", path, long, epoch)[0] == 413, "")

        # What was told of a higher epoch, this one must not write any more, whatever it is told.
        seen = self._ask(primary, "POST", path, note, epoch + 1)
        self._expect("a later epoch is refused", seen[0] == 421, seen)
        seen = self._ask(primary, "POST", path, note, epoch)
        self._expect("and then its own", seen[0] == 421, seen)
        rows = self.site.regions["r1"].database.sql(
            "SELECT count(*) FROM applied WHERE id = %s", language, dbname="app"
        )
        self._expect("nothing of what was refused is applied", rows[0][0] == 1, rows)

    def _until_replayed(self, replica: str, position: int) -> None:
        end = time.monotonic() + 10
        while self._status(replica)["position"] < position:
            if time.monotonic() > end:
                raise RuntimeError("the replica does not get there")
            time.sleep(0.02)
