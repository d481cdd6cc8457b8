"""What the figures were taken on: processor, kernel, limits, versions. No names and no paths of
the machine.
"""

import os
import platform
import re
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cpus:
    """Who runs where; values as taskset takes them."""

    proxy: str
    load: str
    pair: str  # for a proxy with two workers
    pair_load: str  # load and backend meanwhile
    pair_is_shared: bool


def layout(times: bool = True) -> Cpus:
    """CPU 0 for the proxy and CPU 1 for the rest; a pair of CPUs of its own only where there are
    four. Where nothing is timed one CPU does for all.
    """
    usable = sorted(os.sched_getaffinity(0))
    if not times and len(usable) == 1:
        usable *= 2
    if len(usable) < 2:
        raise SystemExit(
            "two CPUs are needed: one for the proxy, one for load generator and backend"
        )
    first, second = usable[:2]
    shared = len(usable) < 4
    rest = str(second) if shared else f"{usable[2]},{usable[3]}"
    return Cpus(str(first), str(second), f"{first},{second}", rest, shared)


def raise_file_limit() -> int:
    """Open files per process, as many as can be; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (1 << 20, 1 << 18, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
            return wanted
        except (ValueError, OSError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def busy_seconds(cpus: str) -> float:
    """What these CPUs did so far, for whomever: the hypervisor's other guests included."""
    lines = dict(line.split(maxsplit=1) for line in Path("/proc/stat").read_text().splitlines())
    ticks = 0
    for cpu in cpus.split(","):
        user, nice, system, _idle, _wait, irq, softirq, steal = map(
            int, lines[f"cpu{cpu}"].split()[:8]
        )
        ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def describe(file_limit: int) -> dict:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cpus": os.cpu_count(),
        "mhz": (re.findall(r"cpu MHz\s*:\s*([\d.]+)", cpuinfo) or [None])[0],
        "hypervisor": "hypervisor" in cpuinfo,
        "memory_mib": int(memory.group(1)) // 1024 if memory else None,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "open_files": file_limit,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def first_line(argv: list[str], pattern: str) -> str:
    """What `pattern` finds in all the program says; "not installed" without it."""
    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "not installed"
    found = re.search(pattern, said.stdout + said.stderr)
    return found.group(1).strip() if found else "unknown"


def tools() -> dict[str, str]:
    return {
        "wrk": first_line(["wrk", "-v"], r"wrk (\S+)"),
        "h2load": first_line(["h2load", "--version"], r"nghttp2/(\S+)"),
        "openssl": first_line(["openssl", "version"], r"OpenSSL (\S+)"),
        "backend nginx": first_line(["nginx", "-v"], r"nginx/(\S+)"),
    }


def without_paths(arguments: list[str]) -> list[str]:
    """A command line as it may be published: files by name, or relative to the current folder."""
    here = os.getcwd()
    shown = []
    for argument in arguments:
        key, equals, path = argument.rpartition("=")
        if path.startswith(here + "/"):
            path = os.path.relpath(path, here)
        elif path.startswith("/"):
            path = os.path.basename(path)
        shown.append(key + equals + path)
    return shown
