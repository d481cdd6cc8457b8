#!/usr/bin/env python3
"""An application in several regions that takes part: notes in PostgreSQL, behind Meridian.

    taking_part.py --region eu-west-1 --listen 127.0.0.1:3000 --database "host=/run/postgresql"

What it has beyond an ordinary application (docs/taking-part.md says why):

1. `GET /meridian/status`, and four headers on every answer: what this region's database is
   (`Meridian-Role`), of which epoch (`Meridian-Epoch`), how far it is (`Meridian-Position`) and how
   far behind (`Meridian-Lag-Ms`).
2. 421 for a write that is not for the primary of the epoch in the request. This is checked inside
   the transaction: nowhere else is it sure which server will commit.
3. A lease: a primary that no replica has confirmed for two seconds says that it is none.

Needs: pip install "psycopg[binary]", and a PostgreSQL that has `synchronous_standby_names` set.
"""

import argparse
import json
import select
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (
    key text PRIMARY KEY, version bigint NOT NULL, value text NOT NULL);
CREATE TABLE IF NOT EXISTS applied (
    id text, key text, version bigint, region text NOT NULL, epoch bigint NOT NULL);
CREATE TABLE IF NOT EXISTS meridian_heartbeat (
    one boolean PRIMARY KEY CHECK (one), epoch bigint NOT NULL, at timestamptz NOT NULL);
"""

# Whether this is a replica, epoch, position, lag in ms. A timeline begins with a promotion: its
# number is the epoch. A replica is of the epoch whose first heartbeat it has replayed, and as far
# behind as the last heartbeat that it has replayed is old. The LSN as bytes from the first one on.
STATE = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN (SELECT epoch FROM meridian_heartbeat)
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
             ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn)::bigint,
       (SELECT greatest(0, ceil(1000 * extract(epoch FROM clock_timestamp() - at)))::bigint
        FROM meridian_heartbeat)
"""

HEARTBEAT = """
INSERT INTO meridian_heartbeat VALUES (true, %s, clock_timestamp())
ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch, at = excluded.at
"""

WRITE = """
INSERT INTO notes VALUES (%s, 1, %s)
ON CONFLICT (key) DO UPDATE SET version = notes.version + 1, value = excluded.value
RETURNING version
"""

HEARTBEAT_SECONDS = 0.1
LEASE_SECONDS = 2.0  # whoever promotes a replica while the primary may live waits for longer
BODY_BYTES = 64 * 1024


class NotPrimary(Exception):
    """The write is for another epoch, or this is a replica: nothing was done."""


class Database:
    """The region's PostgreSQL, with a connection for every thread."""

    def __init__(self, region: str, conninfo: str, fencing: bool = True) -> None:
        self.region, self.fencing = region, fencing
        self._conninfo = conninfo
        self._threads = threading.local()
        self._highest = 0  # epoch that an edge has named
        self._said = 0  # epoch that this has named
        self._confirmed = -LEASE_SECONDS  # when the last heartbeat began that a replica confirmed

    def connection(self) -> psycopg.Connection:
        found = getattr(self._threads, "connection", None)
        # An idle server says something only when it ends.
        if found and not found.closed and select.select([found], [], [], 0)[0]:
            found.close()
        if found is None or found.closed:
            found = self._threads.connection = psycopg.connect(self._conninfo, autocommit=True)
            if not self.fencing:
                found.execute("SET synchronous_commit = local")
        return found

    def forget(self) -> None:
        """After an error: the thread's next request makes a new connection."""
        if found := getattr(self._threads, "connection", None):
            found.close()

    def state(self) -> dict:
        """What the status path tells. A primary whose lease has run out may not be the only one."""
        replica, epoch, position, lag = self.connection().execute(STATE).fetchone()
        leased = time.monotonic() - self._confirmed < LEASE_SECONDS or not self.fencing
        role = "primary" if not replica and leased else "replica"
        lag = 0 if role == "primary" else lag
        if epoch is not None and epoch < self._said:
            # A copy of another server, which has not come as far yet. An epoch is not taken back.
            epoch = position = None
        self._said = max(self._said, epoch or 0)
        return {"role": role, "epoch": epoch, "position": position, "lag_ms": lag}

    def read(self, key: str) -> tuple[int, str]:
        """Version and value of a note; version 0 if there is none."""
        sql = "SELECT version, value FROM notes WHERE key = %s"
        return self.connection().execute(sql, (key,)).fetchone() or (0, "")

    def write(self, identity: str, key: str, value: str, wanted: int | None) -> dict:
        """It returns only when a replica has the commit as well."""
        connection = self.connection()
        with connection.transaction():
            epoch = self.check(wanted)
            version = connection.execute(WRITE, (key, value)).fetchone()[0]
            entry = (identity, key, version, self.region, epoch)
            connection.execute("INSERT INTO applied VALUES (%s, %s, %s, %s, %s)", entry)
        return {"key": key, "version": version, "region": self.region, "epoch": epoch}

    def check(self, wanted: int | None) -> int:
        """The epoch of the server that is about to commit; it cannot change before it has."""
        state = self.state()
        self._highest = max(self._highest, wanted or 0)
        epoch = state["epoch"] or 0
        current = state["role"] == "primary" and wanted in (None, epoch)
        if self.fencing and not (current and epoch and epoch >= self._highest):
            raise NotPrimary
        return epoch

    def beat(self) -> None:
        """Forever. What a replica has replayed of it tells the lag; that one has it, the lease."""
        while True:
            begun = time.monotonic()
            try:
                replica, epoch, *_ = self.connection().execute(STATE).fetchone()
                if not replica:
                    self.connection().execute(HEARTBEAT, (epoch,))
                    self._confirmed = begun
            except psycopg.Error:
                self.forget()
            time.sleep(HEARTBEAT_SECONDS)


class Handler(BaseHTTPRequestHandler):
    """GET and POST /notes/KEY, GET /meridian/status, GET /health."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one write
    disable_nagle_algorithm = True
    database: Database

    def do_GET(self) -> None:
        self.guarded(self.get)

    def do_POST(self) -> None:
        self.guarded(self.post)

    def guarded(self, answer) -> None:
        try:
            answer()
        except psycopg.Error as problem:
            self.database.forget()
            self.answer(503, {"error": type(problem).__name__})
        self.wfile.flush()

    def get(self) -> None:
        if self.path == "/meridian/status":
            state = self.database.state()
            self.answer(200, state, state)
        elif self.path == "/health":
            self.database.state()
            self.answer(200, {"region": self.database.region})
        elif key := self.key():
            version, value = self.database.read(key)
            # After the read: a position that covers all that the answer shows.
            state = self.database.state()
            body = {"key": key, "version": version, "value": value, "region": self.database.region}
            self.answer(200 if version else 404, body, state)
        else:
            self.answer(404, {"error": "no such path"})

    def post(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if length > BODY_BYTES:
            self.close_connection = True
            self.answer(413, {"error": "too long"})
            return
        body = self.rfile.read(length)
        try:
            asked = json.loads(body)
            identity, key, value = str(asked["id"]), self.key(), str(asked["value"])
        except (ValueError, KeyError, TypeError):
            self.answer(400, {"error": 'a note is {"id": ..., "value": ...}'})
            return
        wanted = self.headers.get("Meridian-Epoch")
        try:
            done = self.database.write(identity, key, value, int(wanted) if wanted else None)
        except NotPrimary:
            self.answer(421, {"error": "not the primary of this epoch"}, self.database.state())
            return
        # After the commit: a position that covers it.
        self.answer(201, done, self.database.state())

    def key(self) -> str:
        prefix, _, key = self.path.rpartition("/")
        return key if prefix == "/notes" else ""

    def answer(self, status: int, body: dict, state: dict | None = None) -> None:
        content = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for field, name in FIELDS.items():
            if state and state[name] is not None:
                self.send_header(field, str(state[name]))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        """The edge keeps the log."""


FIELDS = {
    "Meridian-Role": "role",
    "Meridian-Epoch": "epoch",
    "Meridian-Position": "position",
    "Meridian-Lag-Ms": "lag_ms",
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--region", required=True)
    parser.add_argument("--listen", default="127.0.0.1:3000", metavar="ADDRESS:PORT")
    parser.add_argument("--database", default="", metavar="CONNINFO")
    parser.add_argument("--create", action="store_true", help="create the tables, then end")
    parser.add_argument(
        "--no-fencing", action="store_true", help="neither 2 nor 3: to see what goes wrong then"
    )
    options = parser.parse_args()
    if options.create:
        with psycopg.connect(options.database) as connection:
            connection.execute(SCHEMA)
        return
    database = Database(options.region, options.database, not options.no_fencing)
    threading.Thread(target=database.beat, daemon=True).start()
    host, _, port = options.listen.rpartition(":")
    handler = type("Bound", (Handler,), {"database": database})
    Server((host, int(port)), handler).serve_forever()


if __name__ == "__main__":
    main()
