"""One PostgreSQL in a temporary folder: primary or standby, killed, stopped, rewound.

It runs as a user without privileges if the suite runs as root, as it refuses to run as root itself.
Only loopback addresses and a socket in its folder are open.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from lab.process import Child, descendants
from topology.links import CALLERS, REGIONS, address, socket_folder

DATABASE = "app"
PORT = 5432  # on addresses of the sandbox's own network
START_SECONDS = 60.0

SETTINGS = {
    "fsync": "off",  # processes die here, the machine does not
    "shared_buffers": "32MB",
    "max_connections": "120",
    "autovacuum": "off",
    "wal_log_hints": "on",  # pg_rewind needs it
    "wal_keep_size": "1GB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "30min",
    "hot_standby_feedback": "off",
    "max_standby_streaming_delay": "-1",
    "wal_receiver_timeout": "3s",
    "wal_sender_timeout": "3s",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
    "log_min_messages": "warning",
}


def programs() -> Path | None:
    """The folder of initdb, pg_rewind and the rest: Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def lacking() -> str | None:
    return None if programs() else "PostgreSQL is not installed"


def version() -> str:
    said = subprocess.run([programs() / "postgres", "-V"], capture_output=True, text=True)
    return said.stdout.split(") ")[-1].split(" ")[0].strip()


def unprivileged() -> list[str]:
    """A command that runs what follows as somebody else; nothing if this is not root."""
    if os.geteuid() != 0:
        return []
    user = account()
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("there is neither a user postgres nor a user nobody")


def owned(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, account().pw_uid, account().pw_gid)
    return folder


class Postgres:
    """The database of one region."""

    def __init__(self, folder: Path, region: str, cpus: str) -> None:
        self.region = region
        self.folder = socket_folder(owned(folder))
        self.data = folder / "data"
        self._cpus = cpus
        self._child: Child | None = None
        self._follows = ""

    # ------------------------------------------------------------------ making one

    def create(self) -> None:
        """An empty one, not started."""
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8")
        self._configure()

    def copy(self, source: str) -> None:
        """As a standby of another region's."""
        shutil.rmtree(self.data, ignore_errors=True)
        host = address(self.region, source)
        argv = ["-h", host, "-p", str(PORT), "-U", "postgres", "-D", self.data, "-c", "fast", "-N"]
        self._run("pg_basebackup", *argv)
        self._configure()
        self._become_standby(source)

    def rewind(self, source: str) -> None:
        """What diverged is taken back; the whole is copied where that cannot be done."""
        host = address(self.region, source)
        server = f"host={host} port={PORT} user=postgres dbname=postgres"
        try:
            self._run("pg_rewind", "-D", self.data, f"--source-server={server}", "-N")
        except RuntimeError:
            self.copy(source)
            return
        self._configure()
        self._become_standby(source)

    def _become_standby(self, source: str) -> None:
        (self.data / "standby.signal").touch()
        if os.geteuid() == 0:
            os.chown(self.data / "standby.signal", account().pw_uid, account().pw_gid)
        self._follows = source
        self._configure()

    def _configure(self) -> None:
        # Its own settings replace what a copy or a rewind has brought.
        hosts = ",".join(address(caller, self.region) for caller in CALLERS)
        others = ",".join(region for region in REGIONS if region != self.region)
        own = SETTINGS | {
            "listen_addresses": hosts,
            "port": str(PORT),
            "unix_socket_directories": str(self.folder),
            "synchronous_standby_names": f"ANY 1 ({others})",
            "primary_conninfo": self._conninfo(self._follows),
            "cluster_name": self.region,
        }
        text = "".join(f"{name} = '{value}'\n" for name, value in own.items())
        (self.data / "postgresql.conf").write_text(text)
        rules = "local all all trust\nhost all all 127.0.0.0/8 trust\n"
        (self.data / "pg_hba.conf").write_text(rules + "host replication all 127.0.0.0/8 trust\n")
        (self.data / "postgresql.auto.conf").write_text("")

    def _conninfo(self, source: str) -> str:
        if not source:
            return ""
        host = address(self.region, source)
        return (
            f"host={host} port={PORT} user=postgres application_name={self.region} "
            "connect_timeout=2 tcp_user_timeout=3000"
        )

    def _run(self, program: str, *arguments) -> None:
        argv = [*unprivileged(), str(programs() / program), *map(str, arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False)
        if done.returncode:
            raise RuntimeError(f"{program} of {self.region}: {done.stderr.strip()[-500:]}")

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """RuntimeError if it does not answer. After a kill, what was left in memory is cleared."""
        argv = [*unprivileged(), str(programs() / "postgres"), "-D", str(self.data)]
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._child is None or not self._child.is_running():
                # A killed one's shared memory goes when the last of its processes has gone.
                self._child = Child(argv, self._cpus, log=self.folder / "log", cwd="/")
            try:
                self.sql("SELECT 1")
                return
            except psycopg.Error:
                time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL of {self.region} did not start: {self.said()}")

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        """In good order: what it has committed goes to its standbys first."""
        self._end(signal.SIGINT, 30)

    def kill(self) -> None:
        """With all its processes, as when the machine goes."""
        if self._child is None:
            return
        self.signal(signal.SIGKILL)
        self._child.kill()

    def _end(self, number: int, seconds: float) -> None:
        if self._child is None:
            return
        self._child.signal(number)
        try:
            self._child.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def signal(self, number: int) -> None:
        """To all its processes."""
        if self._child and self._child.is_running():
            for pid in descendants(self._child.pid):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    # ------------------------------------------------------------------ asking it

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} port={PORT} user=postgres dbname={DATABASE}"

    def sql(self, text: str, *values, dbname: str = "postgres", seconds: float = 5.0) -> list:
        conninfo = f"host={self.folder} port={PORT} user=postgres dbname={dbname} connect_timeout=2"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            # An operator's commands wait for no standby: there may be none.
            connection.execute("SET synchronous_commit = local")
            connection.execute(f"SET statement_timeout = {int(seconds * 1000)}")
            cursor = connection.execute(text, values or None)
            return cursor.fetchall() if cursor.description else []

    def is_replica(self) -> bool:
        return self.sql("SELECT pg_is_in_recovery()")[0][0]

    def received(self) -> int:
        """How far what it has got goes, replayed or not, in bytes."""
        return self.sql(
            "SELECT (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
            " - '0/0'::pg_lsn)::bigint"
        )[0][0]

    def replayed(self) -> int:
        return self.sql("SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint")[0][0]

    def follow(self, source: str) -> None:
        """Another primary, or none ("")."""
        self._follows = source
        self.sql(f"ALTER SYSTEM SET primary_conninfo = '{self._conninfo(source)}'")
        self.sql("SELECT pg_reload_conf()")

    def until_detached(self, seconds: float = 10.0) -> None:
        self._until("SELECT count(*) = 0 FROM pg_stat_wal_receiver", "still receives", seconds)

    def until_streaming(self, seconds: float = 60.0) -> None:
        sql = "SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        self._until(sql, "does not receive", seconds)

    def _until(self, sql: str, problem: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.sql(sql)[0][0]:
            if time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL of {self.region} {problem}: {self.said()}")
            time.sleep(0.02)

    def pause_replay(self) -> None:
        self.sql("SELECT pg_wal_replay_pause()")

    def resume_replay(self) -> None:
        self.sql("SELECT pg_wal_replay_resume()")

    def promote(self) -> None:
        if not self.sql("SELECT pg_promote(true, 30)", seconds=40)[0][0]:
            raise RuntimeError(f"PostgreSQL of {self.region} was not promoted: {self.said()}")
