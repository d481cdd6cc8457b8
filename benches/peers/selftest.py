#!/usr/bin/env python3
"""Checks the arithmetic of the bench: what is read from tools, percentiles, ratios, verdicts,
sections.

selftest.py         needs nothing but Python; starts nothing
"""

import unittest

from endurance.verdict import judge
from lab.load import LoadFailed, Steady, microseconds, percentile
from lab.machine import without_paths
from modes.base import Bench
from modes.scale import possible
from proxies import named
from reporting import sections, tables
from reporting.comparison import Row, Target, all_rows, row
from reporting.results import Results


def measured(mode: str, proxy: str, number: int, variant: str = "default", **figures) -> dict:
    return {"mode": mode, "proxy": proxy, "variant": variant, "round": number, "figures": figures}


def run_of(*measurements: dict, unsupported: tuple = ()) -> dict:
    return {"kind": "peers", "measurements": list(measurements), "unsupported": list(unsupported)}


class Reading(unittest.TestCase):
    def test_durations(self) -> None:
        self.assertEqual(
            [microseconds(text) for text in ("12us", "1.5ms", "2s", "1m")], [12, 1500, 2e6, 6e7]
        )
        with self.assertRaises(LoadFailed):
            microseconds("soon")

    def test_percentiles(self) -> None:
        hundred = [float(number) for number in range(100)]
        self.assertEqual((percentile(hundred, 0.5), percentile(hundred, 0.99)), (50, 99))
        self.assertEqual(percentile([7.0], 0.99), 7)
        self.assertIsNone(percentile([], 0.5))

    def test_steady_leaves_out_the_warm_up_and_counts_what_failed(self) -> None:
        load = Steady.__new__(Steady)
        load._rps, load._warm_up, load._seconds, load._total = 10, 1.0, 3.0, 31
        rows = [(number * 100_000, 200, 9000 if number < 10 else 100) for number in range(30)]
        rows[20] = (2_000_000, 503, 100)
        seen = load._evaluate(rows)
        self.assertEqual((seen.p99_us, seen.failed), (100, 2))
        self.assertAlmostEqual(seen.reached_rps, 10, places=5)

    def test_command_lines_lose_their_folders(self) -> None:
        self.assertEqual(
            without_paths(["--proxy", "meridian=/a/b/meridian", "--json", "/x/y.json"]),
            ["--proxy", "meridian=meridian", "--json", "y.json"],
        )

    def test_names_of_proxies(self) -> None:
        proxy = named("meridian-old=/a/old")
        self.assertEqual(
            (proxy.name, proxy.binary, proxy.is_meridian), ("meridian-old", "/a/old", True)
        )
        with self.assertRaises(SystemExit):
            named("squid")

    def test_connections_end_where_open_files_do(self) -> None:
        self.assertEqual(possible("connections", 10_000, Bench(None, 1, 20_000)), 8700)
        self.assertEqual(possible("connections", 10_000, Bench(None, 1, 1 << 20)), 10_000)
        self.assertEqual(possible("routes", 10_000, Bench(None, 1, 1024)), 10_000)


class Comparing(unittest.TestCase):
    def results(self) -> Results:
        seen = [
            measured("h1", name, number, cpu_us=value)
            for name, values in (
                ("meridian", (9, 9, 90)),
                ("nginx", (10, 12, 11)),
                ("haproxy", (20, 20, 20)),
            )
            for number, value in enumerate(values)
        ]
        return Results([run_of(*seen)])

    def test_medians_against_the_best_peer(self) -> None:
        found = row(self.results(), "h1", "cpu_us", "HTTP/1.1", "µs", Target(ratio=0.9))
        self.assertEqual((found.own, found.against, found.other), (9, "nginx", 11))
        self.assertFalse(found.is_worse)
        self.assertEqual(found.spread, (0.75, 90 / 11))
        self.assertEqual(found.quickest, 9 / 10)

    def test_the_floor_is_no_peer(self) -> None:
        floor = [measured("h1", "floor", number, cpu_us=5) for number in range(3)]
        mine = [measured("h1", "meridian", number, cpu_us=9) for number in range(3)]
        alone = Results([run_of(*mine, *floor)])
        self.assertIsNone(row(alone, "h1", "cpu_us", "HTTP/1.1", "µs").against)
        peer = measured("h1", "nginx", 0, cpu_us=10)
        found = row(Results([run_of(*mine, *floor, peer)]), "h1", "cpu_us", "HTTP/1.1", "µs")
        self.assertEqual((found.against, found.other), ("nginx", 10))

    def test_a_missed_target_is_listed_and_so_is_what_is_above_one(self) -> None:
        self.assertTrue(Row("a", "µs", 9.5, "nginx", 10, target=Target(ratio=0.9)).is_worse)
        self.assertTrue(Row("a", "µs", 10.5, "nginx", 10).is_worse)
        self.assertTrue(Row("a", "KiB", 2.5, "nginx", 3, target=Target(value=2.0)).is_worse)
        self.assertFalse(
            Row("a", "µs", 15, "itself", 10, target=Target(ratio=2), peer=False).is_worse
        )
        self.assertTrue(Row("a", "µs", 1.6, "nginx", 0.01).is_worse)

    def test_failed_rounds_do_not_count_and_are_told(self) -> None:
        results = Results(
            [
                run_of(
                    measured("h1", "meridian", 0, error="the proxy ended"),
                    measured("h1", "meridian", 1, cpu_us=8.0),
                )
            ]
        )
        self.assertEqual(results.median("h1", "meridian", "cpu_us"), 8)
        self.assertIn("the proxy ended", tables.worse(results))

    def test_the_last_file_has_the_mode(self) -> None:
        first = run_of(
            measured("h1", "meridian", 0, cpu_us=8.0), measured("h1", "nginx", 0, cpu_us=9.0)
        )
        second = run_of(measured("h1", "meridian", 0, cpu_us=7.0))
        results = Results([first, second])
        self.assertEqual(results.proxies("h1"), ["meridian"])
        self.assertEqual(results.median("h1", "meridian", "cpu_us"), 7)

    def test_an_unsupported_mode_is_told(self) -> None:
        refused = {"mode": "tls1", "proxy": "meridian", "variant": "default", "reason": "no tls"}
        text = tables.worse(Results([run_of(unsupported=(refused,))]))
        self.assertIn("**tls1** (meridian): not supported: no tls", text)

    def test_reload_targets(self) -> None:
        figures = {"reload_ms": 120.0, "quiet_p99_us": 100, "p99_us": 250, "failed": 1}
        rows = all_rows(
            Results([run_of(measured("reload", "meridian", 0, "routes=10000", **figures))])
        )
        self.assertEqual(
            [found.name for found in rows if found.misses_target],
            ["reload of 10,000 routes", "p99 during reloads", "requests failed during reloads"],
        )


    def test_an_access_log_is_compared_with_one_of_its_kind_and_with_the_cheapest(self) -> None:
        costs = {"meridian": {"json": 2, "combined": 1}, "nginx": {"json": 4, "combined": 0.5}}
        seen = [
            measured("log", proxy, 0, kind, cpu_us=10 + cost)
            for proxy, kinds in costs.items()
            for kind, cost in {"off": 0, **kinds}.items()
        ]
        rows = {found.name: found for found in all_rows(Results([run_of(*seen)])) if found}
        found = {name: (line.own, line.against, line.other) for name, line in rows.items()}
        self.assertEqual(found["access log (json)"], (2, "nginx (json)", 4))
        self.assertEqual(
            found["access log (json), peers in any format"], (2, "nginx (combined)", 0.5)
        )
        self.assertEqual(found["access log (combined)"], (1, "nginx (combined)", 0.5))


class Verdict(unittest.TestCase):
    @staticmethod
    def samples(growth: float) -> list[dict]:
        return [
            {
                "at": number * 10.0,
                "rss_kib": 50_000 + growth * number,
                "descriptors": 90,
                "threads": 8,
                "p99_us": 5000.0,
            }
            for number in range(60)
        ]

    def test_flat(self) -> None:
        self.assertTrue(judge(self.samples(0), [], 10.0)["flat"])

    def test_a_leak_is_not_flat(self) -> None:
        verdict = judge(self.samples(300), [], 10.0)
        self.assertFalse(verdict["flat"])
        self.assertEqual(
            [key for key, seen in verdict["quantities"].items() if not seen["flat"]], ["rss_kib"]
        )
        self.assertAlmostEqual(verdict["quantities"]["rss_kib"]["kib_per_hour"], 300 * 360)

    def test_latency_counts_only_where_no_region_was_down(self) -> None:
        samples = self.samples(0)
        for sample in samples[50:]:
            sample["p99_us"] = 900_000.0
        self.assertFalse(judge(samples, [], 10.0)["quantities"]["p99_us"]["flat"])
        fault = {"at": samples[50]["at"] - 5, "seconds": 100.0}
        self.assertEqual(
            judge(samples, [fault], 10.0)["quantities"]["p99_us"]["last_quarter"], 5000
        )
        short = {"at": samples[50]["at"] - 5, "seconds": 20.0}
        self.assertFalse(judge(samples, [short], 10.0)["flat"])

    def test_too_few_samples_are_not_flat(self) -> None:
        self.assertFalse(judge(self.samples(0)[:5], [], 10.0)["flat"])


class Page(unittest.TestCase):
    PAGE = "a\n<!-- begin:cpu -->\nold\n<!-- end:cpu -->\nb\n"

    def test_only_the_section_changes_and_twice_is_the_same(self) -> None:
        once = sections.replaced(self.PAGE, "cpu", r"new \1")
        self.assertEqual(once, "a\n<!-- begin:cpu -->\n\nnew \\1\n\n<!-- end:cpu -->\nb\n")
        self.assertEqual(sections.replaced(once, "cpu", r"new \1"), once)
        self.assertIn(sections.NOTHING, sections.replaced(once, "cpu", ""))

    def test_a_section_that_is_missing_is_an_error(self) -> None:
        with self.assertRaises(ValueError):
            sections.replaced(self.PAGE, "log", "x")

    def test_numbers(self) -> None:
        shown = [
            tables.number(value)
            for value in (None, 0, 12, 8750, 9.031, 10.44, 354.9, 0.0512, 12345.6)
        ]
        self.assertEqual(shown, ["–", "0", "12", "8,750", "9.03", "10.4", "355", "0.05", "12,346"])


if __name__ == "__main__":
    unittest.main()
