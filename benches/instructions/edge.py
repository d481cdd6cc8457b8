"""An edge under callgrind: its configuration, its start, and how many instructions it has run.

Promises: an edge that was started is ended, by its own process id, however the run ends.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time

from traffic import Failure

# Name, role, coordinates, and how long its health checks take. On loopback alone all regions would
# be equally near once the measured round trips replace the estimates (after ten seconds), traffic
# would spread over all four, and a figure would depend on when it was taken.
REGIONS = [
    ("us-east-1", "primary", 38.95, -77.45, 0.005),
    ("us-west-2", "replica", 45.84, -119.70, 0.06),
    ("eu-west-1", "replica", 53.35, -6.26, 0.09),
    ("ap-southeast-1", "replica", 1.35, 103.82, 0.2),
]
ENDPOINTS_PER_REGION = 3
HEALTH_SECONDS = [region[-1] for region in REGIONS for _ in range(ENDPOINTS_PER_REGION)]
# callgrind counts `rep movsb` as one instruction a byte, and only some processors prefer it:
# without it a copy is the same instructions on each.
ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-ERMS", "MERIDIAN_LOG": "warn"}
START_SECONDS = 60
STOP_SECONDS = 30
TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


def free_ports(*names):
    """A loopback port for each name that was free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: s.getsockname()[1] for name, s in zip(names, sockets)}
    for s in sockets:
        s.close()
    return ports


def certificate(directory):
    """A self-signed P-256 certificate and its key; their paths."""
    paths = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
               "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
               "-out", paths[0], "-keyout", paths[1]]
    subprocess.run(command, check=True, capture_output=True)
    return paths


def configuration(ports, backends, access_log="off", tls=None):
    """The text of a configuration: `ports` has http1, h2c, admin and, with `tls`, tls."""
    out = ["[edge]", 'id = "guard"', 'region = "us-east-1"', 'state_dir = "state"',
           "worker_threads = 1", "",
           "[[listeners]]", 'name = "http1"', f'address = "127.0.0.1:{ports["http1"]}"', "",
           "[[listeners]]", 'name = "h2c"', f'address = "127.0.0.1:{ports["h2c"]}"',
           'protocols = ["h2c", "http1"]', ""]
    if tls:
        out += ["[[listeners]]", 'name = "tls"', f'address = "127.0.0.1:{ports["tls"]}"',
                "[listeners.tls]", "session_tickets = false",
                f'certificates = [{{ certificate = "{tls[0]}", private_key = "{tls[1]}" }}]', ""]
    # Generous, so that a starved machine slows a run down and does not end it.
    out += ["[limits]", 'header_timeout = "300s"', 'keepalive_timeout = "300s"', "",
            "[shutdown]", 'lame_duck = "0s"', 'grace = "1s"', "",
            "[admin]", f'address = "127.0.0.1:{ports["admin"]}"', "",
            "[access_log]", f'output = "{access_log}"', 'format = "json"', ""]
    for name, role, latitude, longitude, _ in REGIONS:
        out += ["[[regions]]", f'id = "{name}"', f'role = "{role}"',
                f"coordinates = [{latitude}, {longitude}]", ""]
    # One probe of each endpoint, then none while requests are counted.
    out += ["[[services]]", 'name = "api"', 'policy = "latency"', 'balance = "p2c_ewma"',
            "[services.health]", 'kind = "http"', 'path = "/health"', 'interval = "60s"',
            'timeout = "10s"', "",
            "[services.timeouts]", 'connect = "60s"', 'first_byte = "120s"', ""]
    for number, port in enumerate(backends):
        region = REGIONS[number // ENDPOINTS_PER_REGION][0]
        out += ["[[services.endpoints]]", f'region = "{region}"',
                f'address = "127.0.0.1:{port}"', ""]
    out += ["[[routes]]", 'name = "api"', 'path_prefix = "/api"', 'service = "api"', ""]
    return "\n".join(out)


def check(binary, config):
    """What `meridian check` has against a configuration; None if nothing."""
    done = subprocess.run([binary, "check", "--config", config], capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr + done.stdout).strip()


def task_status(tasks):
    """/proc status of each thread in a task directory."""
    return [(thread / "status").read_text() for thread in pathlib.Path(tasks).iterdir()]


class Edge:
    """A running edge. `wrapper` is what starts it: callgrind, strace or nothing."""

    def __init__(self, binary, directory, ports, wrapper=()):
        self.directory = pathlib.Path(directory)
        self.ports = ports
        self.command = [*wrapper, str(binary), "run", "--config",
                        str(self.directory / "meridian.toml")]

    def __enter__(self):
        self.log = open(self.directory / "edge.log", "wb")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log,
                                        cwd=self.directory, env={**os.environ, **ENVIRONMENT})
        try:
            self._await_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _await_ready(self):
        deadline = time.monotonic() + START_SECONDS
        probe = b"GET /readyz HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n"
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.ports["admin"]), 5) as admin:
                    admin.sendall(probe)
                    if b" 200 " in admin.recv(4096)[:20]:
                        return
            except OSError:
                pass
            time.sleep(0.1)
        raise Failure(f"the edge did not become ready: {self.said()}")

    def said(self):
        """The end of its log, and whether it still runs."""
        state = "it still runs" if self.process.poll() is None else "it has ended"
        log = (self.directory / "edge.log").read_text(errors="replace")[-2000:]
        return f"{state}; its log: {log}"

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


class CountedEdge(Edge):
    """An edge under callgrind, which writes one file per dump."""

    def __init__(self, binary, directory, ports):
        self.out = pathlib.Path(directory) / "callgrind.out"
        wrapper = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.out}",
                   f"--vgdb-prefix={directory}/vgdb-pipe", "--vgdb-poll=200",
                   "--fair-sched=yes"]
        super().__init__(binary, directory, ports, wrapper)
        self.dumps = 0

    def dump(self):
        """Path and total of the instructions since the last dump."""
        # Without ptrace, by which vgdb 3.19 now and then leaves the process stopped for good; the
        # edge's own ticks make valgrind look for commands often enough.
        command = ["vgdb", f"--vgdb-prefix={self.directory}/vgdb-pipe",
                   "--max-invoke-ms=0", f"--pid={self.process.pid}", "dump"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_SECONDS)
        self.dumps += 1
        path = pathlib.Path(f"{self.out}.{self.dumps}")
        if done.returncode or not path.exists():
            raise Failure(f"vgdb: {done.stdout}{done.stderr}")
        return path, int(TOTALS.search(path.read_text()).group(1))
