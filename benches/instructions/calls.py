"""System calls that a request costs an edge, counted by strace attached to it for one batch."""

import collections
import re
import signal
import subprocess
import time

import edge
import traffic

FEWER = 160
MORE = 960
ROW = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+)(?: +\d+)? +(\w+)$", re.MULTILINE)
ATTACH_SECONDS = 10


def counted(running, mode, requests):
    """System calls by name while `requests` were served, and a few of the edge's own ticks."""
    out = running.directory / "strace.out"
    command = ["strace", "-c", "-f", "-p", str(running.process.pid), "-o", str(out)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        await_attached(running, tracer)
        mode.send(running.ports, requests)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()
    rows = ROW.findall(out.read_text())
    return collections.Counter({name: int(n) for n, name in rows if name != "total"})


def await_attached(running, tracer):
    """Until every thread of the edge is traced by this process."""
    deadline = time.monotonic() + ATTACH_SECONDS
    wanted = f"TracerPid:\t{tracer.pid}\n"
    tasks = f"/proc/{running.process.pid}/task"
    while time.monotonic() < deadline and tracer.poll() is None:
        if all(wanted in status for status in edge.task_status(tasks)):
            return
        time.sleep(0.02)
    raise traffic.Failure("strace could not attach (it needs ptrace: root, or ptrace_scope 0)")


def print_all(site, modes):
    """A table of all modes: calls a request, and which."""
    for setup in dict.fromkeys(mode.setup for mode in modes):
        with site.running(edge.Edge, setup) as running:
            for mode in (m for m in modes if m.setup == setup):
                if running is None:
                    print(f"{mode.name:<11}skipped: this version has no [listeners.tls]")
                    continue
                fewer, more = min(FEWER, mode.fewer), min(MORE, mode.more)
                mode.send(running.ports, fewer)
                calls = counted(running, mode, more)
                calls.subtract(counted(running, mode, fewer))
                each = {name: n / (more - fewer) for name, n in calls.most_common()}
                which = ", ".join(f"{name} {n:.2f}" for name, n in each.items() if n >= 0.01)
                print(f"{mode.name:<11}{sum(each.values()):8.2f}  {which}", flush=True)
