"""The load generators, wrk and h2load, and what they say.

wrk and h2load in closed loop measure cost: as fast as the proxy can. `Steady` measures latency: a
fixed rate, spread evenly, with one line per request.
"""

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.process import Child

GRACE_SECONDS = 30


class LoadFailed(Exception):
    """The generator did not say what it should have said."""


@dataclass(frozen=True)
class Burst:
    """A closed-loop run. Latency is that of a saturated proxy."""

    done: int
    bad: int
    p50_us: float | None
    p99_us: float | None
    mean_us: float | None = None


def microseconds(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if not found:
        raise LoadFailed(f"not a duration: {text!r}")
    return float(found.group(1)) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[found.group(2)]


def percentile(ordered: list[float], share: float) -> float | None:
    """Nearest rank; None of nothing."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def run(argv: list[str], cpus: str, seconds: float) -> str:
    try:
        said = subprocess.run(
            ["taskset", "-c", cpus, *argv],
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise LoadFailed(f"{argv[0]} did not end in time") from late
    return said.stdout + said.stderr


def wrk(
    url: str,
    cpus: str,
    connections: int,
    seconds: int,
    script: Path | None = None,
    close: bool = False,
) -> Burst:
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    argv += ["-s", str(script)] if script else []
    argv += ["-H", "Connection: close"] if close else []
    said = run([*argv, url], cpus, seconds)
    total = re.search(r"(\d+) requests in", said)
    if not total:
        raise LoadFailed(f"wrk: {said[-300:]}")
    bad = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", said))
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said
    )
    if errors:
        connect, read, write, timeout = map(int, errors.groups())
        bad += (
            connect + write + timeout + (0 if close else read)
        )  # a closed connection is a read error
    lines = {share: re.search(share + r"%\s+([\d.]+\w+)", said) for share in ("50", "99")}
    p50, p99 = (microseconds(line.group(1)) if line else None for line in lines.values())
    return Burst(int(total.group(1)), bad, p50, p99)


def h2load(url: str, cpus: str, connections: int, streams: int, seconds: int) -> Burst:
    said = run(
        ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", url], cpus, seconds
    )
    counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed", said)
    if not counts:
        raise LoadFailed(f"h2load: {said[-300:]}")
    done, succeeded = int(counts.group(1)), int(counts.group(2))
    mean = re.search(r"time for request:\s+\S+\s+\S+\s+(\S+)", said)
    return Burst(
        succeeded, done - succeeded, None, None, microseconds(mean.group(1)) if mean else None
    )


def is_good(status: int) -> bool:
    return 200 <= status < 400


def read_log(path: Path) -> list[tuple[int, int, int]]:
    """h2load's lines: start in microseconds since the epoch, status, microseconds taken."""
    if not path.exists():
        return []
    with path.open() as file:
        return [tuple(map(int, line.split()[:3])) for line in file]


def window(
    url: str,
    cpus: str,
    connections: int,
    seconds: float,
    folder: Path,
    cpu_seconds: Callable[[], float],
) -> dict:
    """CPU per request of a closed loop once all its connections are open: only what ends in the
    window counts.
    """
    settle = 1 + connections / 2000
    log = folder / "window.log"
    argv = [
        "h2load",
        "--h1",
        "-t1",
        f"-c{connections}",
        f"-D{int(settle + seconds) + 1}",
        f"--log-file={log}",
        url,
    ]
    with Child(argv, cpus) as child:
        time.sleep(settle)
        used, begin = cpu_seconds(), time.time_ns() // 1000
        time.sleep(seconds)
        used, end = cpu_seconds() - used, time.time_ns() // 1000
        try:
            child.popen.wait(seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise LoadFailed("h2load did not end in time") from late
    rows = [row for row in read_log(log) if begin <= row[0] + row[2] < end]
    log.unlink(missing_ok=True)
    took = sorted(row[2] for row in rows)
    return {
        "cpu_us": used / max(len(rows), 1) * 1e6,
        "rps": len(rows) / seconds,
        "busy": used / ((end - begin) / 1e6),
        "bad": sum(not is_good(row[1]) for row in rows),
        "p50_us": percentile(took, 0.5),
        "p99_us": percentile(took, 0.99),
    }


@dataclass(frozen=True)
class Latencies:
    """A run at a fixed rate; percentiles are taken after the warm-up."""

    wanted_rps: float
    reached_rps: float
    requests: int
    failed: int
    p50_us: float | None
    p99_us: float | None
    p999_us: float | None

    def figures(self) -> dict:
        return asdict(self)


class Steady:
    """A fixed rate of HTTP/1.1 requests.

    h2load starts all clients in step and so sends in bursts; starting one client a millisecond
    (-r) spreads the requests evenly, and -n, which -r needs, ends the run. A client whose answer
    is late sends the next request late: where the reached rate is the wanted one, that did not
    happen.
    """

    CLIENTS = 50
    RUN_OUT_SECONDS = 0.1  # the first clients are done before the last

    def __init__(
        self,
        url: str,
        cpus: str,
        rps: int,
        seconds: float,
        folder: Path,
        urls: list[str] | None = None,
        warm_up: float = 1.0,
    ) -> None:
        self._rps, self._warm_up, self._seconds = rps, warm_up, seconds + warm_up
        self._log = folder / "steady.log"
        self._log.unlink(missing_ok=True)
        clients = min(self.CLIENTS, rps)
        self._total = max(int(rps * self._seconds) // clients, 1) * clients
        argv = [
            "h2load",
            "--h1",
            "-t1",
            f"-c{clients}",
            f"--rps={rps / clients:g}",
            f"-n{self._total}",
            "-r1",
            "--rate-period=1ms",
            f"--log-file={self._log}",
        ]
        if urls:
            (folder / "urls.txt").write_text("\n".join(urls) + "\n")
            argv.append(f"--input-file={folder / 'urls.txt'}")
        else:
            argv.append(url)
        self._child = Child(argv, cpus)

    def is_running(self) -> bool:
        return self._child.is_running()

    def finish(self) -> Latencies:
        try:
            self._child.popen.wait(self._seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise LoadFailed("h2load did not end in time") from late
        finally:
            self._child.stop()
        rows = read_log(self._log)
        self._log.unlink(missing_ok=True)
        return self._evaluate(rows)

    def _evaluate(self, rows: list[tuple[int, int, int]]) -> Latencies:
        if not rows:
            raise LoadFailed("h2load logged no request")
        begin = min(start for start, _, _ in rows) + self._warm_up * 1e6
        end = begin + (self._seconds - self._warm_up - self.RUN_OUT_SECONDS) * 1e6
        failed = sum(not is_good(status) for _, status, _ in rows) + self._total - len(rows)
        ordered = sorted(took for start, _, took in rows if start >= begin)
        reached = sum(begin <= start < end for start, _, _ in rows) / ((end - begin) / 1e6)
        return Latencies(
            self._rps,
            reached,
            self._total,
            failed,
            percentile(ordered, 0.5),
            percentile(ordered, 0.99),
            percentile(ordered, 0.999),
        )
