"""The yardstick: CPU per request, and memory per idle connection.

h1      HTTP/1.1 keep-alive, 64 connections, 1 KiB answers
browser the same with the twelve fields that a browser sends
h2      HTTP/2 without TLS, 8 connections x 8 streams
tls1    HTTP/1.1 over TLS 1.3, keep-alive
tls2    HTTP/2 over TLS 1.3
big     HTTP/1.1, 1 MiB answers, 8 connections: CPU per request is CPU per MiB
post    HTTP/1.1, 4 KiB request bodies; Meridian sends them to the primary region
shake   a new TLS connection, a full handshake, for every request
idle    resident memory per idle keep-alive connection, 2,000 connections
"""

import time

from lab.crowd import Crowd
from lab.load import h2load, wrk
from modes.base import Bench, Case, cost
from proxies import Proxy, Running, Setup

# Idle first: the heap is still small.
NAMES = ("idle", "h1", "browser", "h2", "tls1", "tls2", "big", "post", "shake")
LISTENER = {"h2": "h2", "tls1": "tls", "tls2": "tls", "shake": "tls"}
IDLE_CONNECTIONS = 2000
POST = """wrk.method = "POST"
wrk.body = string.rep("y", 4096)
wrk.headers["Content-Type"] = "application/octet-stream"
"""
FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "https://shop.example.com/catalog?page=2",
    "Cookie": "session=5f0c1b7e9a3d4c2e8b6a; theme=dark; consent=yes",
    "Cache-Control": "no-cache",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
}
BROWSER = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in FIELDS.items())


def cases(mode: str, _proxy: Proxy, _bench: Bench) -> list[Case]:
    setup = Setup(listeners=frozenset({"h1", LISTENER.get(mode, "h1")}))

    def measure(bench: Bench, running: Running) -> dict:
        return idle(bench, running) if mode == "idle" else loaded(mode, bench, running)

    return [Case(mode, "default", setup, measure, shares_process=True)]


def loaded(mode: str, bench: Bench, running: Running) -> dict:
    cpus, url = bench.cpus.load, running.site.url
    script = running.site.folder / f"{mode}.lua"
    script.write_text(POST if mode == "post" else BROWSER)
    bursts = {
        "h1": lambda s: wrk(url("h1"), cpus, 64, s),
        "browser": lambda s: wrk(url("h1"), cpus, 64, s, script=script),
        "h2": lambda s: h2load(url("h2"), cpus, 8, 8, s),
        "tls1": lambda s: wrk(url("tls"), cpus, 64, s),
        "tls2": lambda s: h2load(url("tls"), cpus, 8, 8, s),
        "big": lambda s: wrk(url("h1", "/big"), cpus, 8, s),
        "post": lambda s: wrk(url("h1"), cpus, 64, s, script=script),
        "shake": lambda s: wrk(url("tls"), cpus, 32, s, close=True),
    }
    return cost(running, bench.seconds, bursts[mode])


def idle(bench: Bench, running: Running) -> dict:
    before = running.child.rss_kib()
    with Crowd(
        running.site.address("h1"), IDLE_CONNECTIONS, bench.file_limit, bench.cpus.load
    ) as crowd:
        time.sleep(1)
        used = running.child.rss_kib() - before
        return {"kib_per_connection": used / max(crowd.held, 1), "held": crowd.held}
