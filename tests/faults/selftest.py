#!/usr/bin/env python3
"""Proves that the fault suite can fail.

    selftest.py           the reconciliation, the bounds and the page, from made-up notes
    selftest.py --live    also against a proxy that does wrong on purpose (half a minute; root)

With --live every vice of programs/bad_proxy.py must be found by the check that is there for it,
and the same proxy without vices must pass.
"""

import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

import harness  # first: it makes the process lab of the benchmarks known
from cases.bodies import Reset, Truncated
from cases.endpoints import Kill
from edges import named
from edges.base import Edge, Running, Settings, Site
from harness import judge, sandbox
from harness.plan import Plan
from harness.reconcile import SECOND, Applied, Asked, latencies, reconcile, recovery
from harness.wire import Sighting, last_traffic, port_filter, read_head, sent_twice
from report import bounds, comparison, table, worse
from run import tried

PROGRAM = Path(__file__).resolve().parent / "programs" / "bad_proxy.py"
BRIEF = Plan("selftest", 0.6, 2, 1.5, 0.3, 0, 0, 0, 0, 0, 0, 0, 0, 60)


def asked(identity: str, method: str = "GET", status: int = 200, **more) -> Asked:
    known = {"due": 0, "began": 0, "ended": 1, "cause": "", "server": "a", "retry_after": False}
    return Asked(identity, method.lower(), method, **{"status": status, **known, **more})


def applied(*identities: str, method: str = "POST") -> list[Applied]:
    return [Applied(at, identity, method, "a") for at, identity in enumerate(identities)]


class Reconciling(unittest.TestCase):
    def test_all_is_well(self) -> None:
        found = reconcile([asked("1"), asked("2", "POST")], applied("1", "2"))
        self.assertEqual((found.gets, found.posts), (1, 1))
        self.assertEqual(
            (found.failed_gets, found.failed_posts, found.lost, found.doubled, found.vanished),
            ([], [], [], [], []),
        )

    def test_a_post_that_is_applied_twice_is_doubled_and_a_get_is_not(self) -> None:
        found = reconcile([asked("1"), asked("2", "POST")], applied("1", "1", "2", "2"))
        self.assertEqual(found.doubled, ["2"])

    def test_a_doubled_post_is_found_even_if_the_client_saw_an_error(self) -> None:
        found = reconcile([asked("2", "POST", 502)], applied("2", "2"))
        self.assertEqual(found.doubled, ["2"])

    def test_an_answer_to_what_nobody_applied(self) -> None:
        found = reconcile([asked("1"), asked("2", "POST")], applied("1"))
        self.assertEqual(found.vanished, ["2"])

    def test_an_honest_error_is_failed_and_silence_is_lost_as_well(self) -> None:
        silent = asked("2", status=0, cause="closed unanswered")
        found = reconcile([asked("1", status=503), silent], [])
        self.assertEqual([request.identity for request in found.failed_gets], ["1", "2"])
        self.assertEqual([request.identity for request in found.lost], ["2"])
        self.assertEqual(found.causes(), {"GET status 503": 1, "GET closed unanswered": 1})

    def test_a_client_that_gave_up_failed_and_is_not_lost(self) -> None:
        found = reconcile([asked("1", status=0, cause="no answer in time")], applied("1"))
        self.assertEqual((len(found.failed_gets), found.lost, len(found.given_up)), (1, [], 1))

    def test_what_nobody_asked(self) -> None:
        self.assertEqual(reconcile([], applied("9")).unknown, ["9"])

    def test_recovery_ends_with_the_last_that_failed_or_was_slow(self) -> None:
        requests = [
            asked("1", due=0, ended=SECOND // 10),
            asked("2", due=SECOND, ended=3 * SECOND),
            asked("3", status=502, due=3 * SECOND, ended=3 * SECOND + SECOND // 2),
            asked("4", due=5 * SECOND, ended=5 * SECOND + SECOND // 10),
        ]
        self.assertEqual(recovery(requests, [SECOND], 250), 2.5)
        self.assertEqual(recovery(requests, [4 * SECOND], 250), 0)

    def test_recovery_after_several_faults_is_that_of_the_slowest(self) -> None:
        under_way = asked("1", status=502, due=SECOND, ended=3 * SECOND)
        later = asked("2", status=502, due=5 * SECOND, ended=6 * SECOND)
        faults = [2 * SECOND, 4 * SECOND + SECOND // 2, 9 * SECOND]
        self.assertEqual(recovery([under_way], faults, 250), 1)
        self.assertEqual(recovery([under_way, later], faults, 250), 1.5)

    def test_latency_counts_from_when_a_request_was_due(self) -> None:
        late = asked("1", due=0, began=SECOND, ended=2 * SECOND)
        failed = asked("2", status=0, due=0, ended=9 * SECOND)
        self.assertEqual(latencies([late, failed], 0, SECOND), [2000])


class Watching(unittest.TestCase):
    def test_heads(self) -> None:
        text = b"POST /work HTTP/1.1\r\nHost: a\r\nx-fault-id: m-7\r\n\r\nbody"
        self.assertEqual(read_head(text), ("request", "m-7", "POST"))
        self.assertEqual(read_head(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"), ("probe", "", ""))
        self.assertIsNone(read_head(b"just bytes of a body"))
        self.assertEqual(len(port_filter(1, 2)) % 8, 0)

    def test_the_last_request_is_the_ejection_and_probes_are_not(self) -> None:
        seen = [
            Sighting(5, 80, 1, "request", "m-1", "GET"),
            Sighting(9, 80, 2, "probe"),
            Sighting(9, 81, 3, "request", "m-2", "GET"),
        ]
        self.assertEqual(last_traffic(seen, {80}, 0, 100), 5)
        self.assertIsNone(last_traffic(seen, {80}, 6, 100))

    def test_connects_count_if_they_are_more_than_probes(self) -> None:
        few = [Sighting(n * SECOND // 10, 80, n, "connect") for n in range(10)]
        many = [Sighting(n * SECOND // 50, 80, n, "connect") for n in range(10)]
        self.assertIsNone(last_traffic(few, {80}, 0, 10 * SECOND))
        self.assertEqual(last_traffic(many, {80}, 0, 10 * SECOND), 9 * SECOND // 50)

    def test_a_post_on_two_connections_was_sent_twice(self) -> None:
        seen = [
            Sighting(1, 80, 1, "request", "m-1", "POST"),
            Sighting(2, 81, 2, "request", "m-1", "POST"),
            Sighting(3, 80, 1, "request", "m-2", "GET"),
            Sighting(4, 81, 2, "request", "m-2", "GET"),
            Sighting(5, 80, 1, "request", "crowd", "POST"),
            Sighting(6, 80, 1, "request", "crowd", "POST"),
        ]
        self.assertEqual(sent_twice(seen, {"m-1", "m-2"}), ["m-1"])


class Judging(unittest.TestCase):
    def test_bounds(self) -> None:
        self.assertTrue(judge.none("a", 0).kept)
        self.assertFalse(judge.none("a", 1).kept)
        self.assertTrue(judge.at_most("a", 2, 2).kept)
        self.assertFalse(judge.at_least("a", 1, 2).kept)

    def test_what_could_not_be_measured_is_not_kept(self) -> None:
        self.assertFalse(judge.none("a", None).kept)
        self.assertFalse(judge.at_least("a", None, 0).kept)

    def test_the_bystander_may_take_three_times_as_long(self) -> None:
        self.assertEqual(judge.p99_bound(10, None, 20), 30)
        self.assertEqual(judge.p99_bound(1, 2, 20), 20)
        self.assertEqual(judge.p99_bound(1, 40, 20), 120)

    def test_names_of_proxies(self) -> None:
        with self.assertRaises(ValueError):
            named("squid")
        with self.assertRaises(ValueError):
            named("meridian=/does/not/exist")


def row(proxy: str, failed: int = 0, recovery_s: float = 0.0, **more) -> dict:
    figures = {
        "gets": 100,
        "failed_gets": failed,
        "posts": 50,
        "failed_posts": 0,
        "lost": 0,
        "doubled_posts": 0,
        "posts_sent_twice": 0,
        "ejection_s": 0.5,
        "recovery_s": recovery_s,
        "bystander_p99_ms": 2.0,
        "bystander_quiet_p99_ms": 1.0,
        "causes": {},
    }
    known = {"case": "kill", "title": "kill -9", "proxy": proxy, "not_measured": None}
    return {**known, "figures": figures, "checks": [], **more}


class Reporting(unittest.TestCase):
    def test_a_missed_bound_is_told(self) -> None:
        check = judge.none("failed GETs", 3).record(common=True)
        rows = [row("meridian", 3, checks=[check])]
        self.assertIn("**missed**", table(rows))
        self.assertIn("failed GETs: 3", worse(rows))
        self.assertIn("**failed GETs: 3**", bounds(rows))

    def test_what_a_peer_does_better_is_told(self) -> None:
        rows = [row("meridian", 3, 2.0), row("nginx", 1, 2.5), row("haproxy", 4, 0.5)]
        text = worse(rows)
        self.assertIn("3 failed requests, nginx 1", text)
        self.assertIn("recovery 2 s, haproxy 0.5 s", text)
        self.assertIn("| kill -9 | 3, 2 s | 1, 2.5 s | 4, 0.5 s |", comparison(rows))

    def test_latency_while_a_crowd_arrives_is_compared(self) -> None:
        rows = [row("meridian"), row("nginx")]
        for each, value in zip(rows, (40.0, 20.0)):
            each["figures"]["arrival_p99_ms"] = value
        self.assertIn("while the crowd arrives 40 ms, nginx 20 ms", worse(rows))

    def test_a_row_that_was_not_measured_says_why(self) -> None:
        rows = [row("meridian", not_measured="no iptables here")]
        del rows[0]["figures"]
        self.assertIn("no iptables here", table(rows))


class Deliberate(Edge):
    """The proxy that does wrong."""

    def __init__(self, *vices: str) -> None:
        super().__init__("meridian", sys.executable)
        self._vices = ",".join(vices)

    def command(self, site: Site) -> list[str]:
        services = {
            "/bystander/": [endpoint.address for endpoint in site.of("bystander")],
            "/": [endpoint.address for endpoint in site.of("api")],
        }
        return [sys.executable, str(PROGRAM), site.address, self._vices, json.dumps(services)]

    def version(self) -> str:
        return "none"

    def write(self, site: Site, settings: Settings) -> None:
        pass

    def reload(self, running: Running) -> None:
        pass

    def start(self, site: Site, settings: Settings) -> Running:
        running = super().start(site, settings)
        running.processes = lambda: [running.child.pid] if running.child.is_running() else []
        return running


class Live(unittest.TestCase):
    """Each of these takes some seconds."""

    def missed(self, case, *vices: str) -> set[str]:
        """What the checks found."""
        with tempfile.TemporaryDirectory(prefix="meridian-faults-") as folder:
            row = tried(case(), Deliberate(*vices), BRIEF, Path(folder), cpus())
        return {check["what"] for check in row["checks"] if not check["kept"]}

    def test_a_proxy_that_does_its_work_passes(self) -> None:
        self.assertEqual(self.missed(Kill, "none"), set())

    def test_doubled_lost_and_invented_requests_are_found(self) -> None:
        missed = self.missed(Kill, "doubles", "loses", "invents")
        expected = {
            "POSTs applied twice",
            "POSTs sent to endpoints twice",
            "answered and never applied",
            "failed GETs",
            "neither answer nor honest error",
            "failed requests of the bystander",
        }
        self.assertLessEqual(expected, missed)

    def test_an_endpoint_that_is_never_left_out_and_a_bystander_that_waits_are_found(self) -> None:
        missed = self.missed(Kill, "stubborn", "blocks")
        self.assertLessEqual({"time to ejection", "p99 of the bystander"}, missed)

    def test_half_an_answer_that_looks_whole_is_found(self) -> None:
        for case in (Reset, Truncated):
            with self.subTest(case.name):
                self.assertIn("cut answers that looked whole", self.missed(case, "completes"))

    def test_half_an_answer_that_looks_cut_is_fine(self) -> None:
        self.assertNotIn("cut answers that looked whole", self.missed(Truncated, "none"))


def cpus() -> str:
    from lab import machine

    machine.raise_file_limit()
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


def main() -> None:
    if "--live" in sys.argv:
        sandbox.enter()
        if reason := sandbox.lacks("packets"):
            sys.exit(f"selftest: {reason}")
        sys.argv.remove("--live")
        wanted = []
    else:
        wanted = ["Reconciling", "Watching", "Judging", "Reporting"]
    unittest.main(argv=[sys.argv[0], *wanted, *sys.argv[1:]])


if __name__ == "__main__":
    main()
