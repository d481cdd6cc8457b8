#!/usr/bin/env python3
"""Proves that what judges in the front-door suite can fail, from made-up findings. That scanners
find what is bad is proved at each run, by servers that are bad on purpose.
"""

import sys
import unittest

import front  # noqa: F401  first: it makes the fault suite's harness known
import report
from cases import slow, tls


def line(severity: str, identity: str) -> dict:
    return {"severity": severity, "id": identity, "finding": "made up"}


def seen(**more) -> dict:
    figures = {
        "mode": "made up",
        "errors": 0,
        "requests": 100,
        "quiet_p99_ms": 5.0,
        "p99_ms": 10.0,
        "direct_p99_ms": 5.0,
        "peak": 400.0,
        "ended_after_s": slow.MODES[0].ramp + 3,
        "rss_before_kib": 30_000,
        "grown_kib": 1000.0,
        "logged": 300,
        "service_available": 1.0,
    }
    return figures | more


def missed(mode: slow.Mode = slow.MODES[0], **more) -> int:
    checks = slow.Slow._bounds(mode, seen(**more))
    return sum(not check.kept for check in checks)


class Scanned(unittest.TestCase):
    def test_medium_and_above_is_bad_and_so_is_what_was_not_checked(self) -> None:
        for severity in ("MEDIUM", "HIGH", "CRITICAL", "WARN"):
            self.assertTrue(tls.is_bad(line(severity, "cipher_order")))
        for severity in ("OK", "INFO", "LOW"):
            self.assertFalse(tls.is_bad(line(severity, "cipher_order")))

    def test_what_is_excused_is_excused_at_its_severity_alone(self) -> None:
        self.assertFalse(tls.is_bad(line("WARN", "sessionresumption_ticket")))
        self.assertTrue(tls.is_bad(line("HIGH", "sessionresumption_ticket")))


class Suffered(unittest.TestCase):
    def test_all_is_well(self) -> None:
        self.assertEqual(missed(), 0)

    def test_each_bound_can_be_missed(self) -> None:
        self.assertEqual(missed(errors=1), 1)
        self.assertEqual(missed(p99_ms=slow.FLOOR_MS + 1), 1)
        self.assertEqual(missed(p99_ms=None), 1)
        self.assertEqual(missed(peak=10.0), 1)
        self.assertEqual(missed(service_available=0.5), 1)
        self.assertEqual(missed(service_available=None), 1)
        ranges = next(mode for mode in slow.MODES if not mode.stays)
        self.assertEqual(missed(ranges, peak=0.0), 0)
        self.assertEqual(missed(ranges, logged=0), 1)
        self.assertEqual(missed(ended_after_s=slow.LONGEST_SECONDS), 1)
        self.assertEqual(missed(ended_after_s=None), 1)
        self.assertEqual(missed(grown_kib=slow.MOST_KIB + 300 * slow.MOST_KIB_EACH + 1.0), 1)

    def test_probes_are_no_slow_connections(self) -> None:
        second = 1_000_000_000
        found = [(0, None), (second, 300.0), (2 * second, 4.0), (3 * second, 2.0)]
        self.assertEqual(slow.ended_after(found, 0), 2.0)
        self.assertEqual(slow.ended_after(found[3:], 0), 0.0)
        self.assertIsNone(slow.ended_after(found[:1], 0))

    def test_a_busy_machine_is_not_held_against_the_edge(self) -> None:
        self.assertEqual(missed(p99_ms=slow.FLOOR_MS + 1, direct_p99_ms=slow.FLOOR_MS), 0)


class Page(unittest.TestCase):
    def test_a_bound_that_was_missed_is_told(self) -> None:
        check = {"kept": False, "text": "found: 2"}
        row = {"title": "a", "case": "a", "version": "1", "seconds": 1, "checks": [check]}
        self.assertIn("**missed**: found: 2", report.table({"rows": [row]}))
        row |= {"error": "RuntimeError: no", "checks": []}
        self.assertIn("**not measured**: RuntimeError: no", report.table({"rows": [row]}))


if __name__ == "__main__":
    sys.exit(0 if unittest.main(exit=False, verbosity=1).result.wasSuccessful() else 1)
