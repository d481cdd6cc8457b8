#!/usr/bin/env python3
"""Holds the dashboard, the alert rules and the federation example against what an edge exports.

    check_metrics_names.py --metrics FILE-OR-URL    a /metrics page: names and labels must be there
    check_metrics_names.py --source DIRECTORY       Rust sources: names must be string literals there
    check_metrics_names.py --self-test

Every metric that docker/prometheus and docker/grafana use must exist, and a label that they match,
group by or show must be one that its family carries on the page. A family without a sample is on no
page, so the page is best taken from an edge that has served reads and writes. What only an edge with
TLS, hedges, affinity or a primary that has moved exports need not be there.
Exit codes: 0 all well, 1 at least one finding, 2 usage or nothing to read.
"""

import argparse
import json
import pathlib
import re
import sys
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
USERS = ["docker/prometheus", "docker/grafana"]
NAME = re.compile(r"\bmeridian_[a-z0-9_]+")
SELECTOR = re.compile(r"\b(meridian_[a-z0-9_]+)\s*\{([^{}]*)\}")
MATCHER = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\s*(?:=~|!~|!=|=)\s*"')
SAMPLE = re.compile(r"^(meridian_[a-z0-9_]+)(?:\{(.*)\})?\s+\S+")
LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="(?:[^"\\]|\\.)*"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
SUFFIXES = ("_bucket", "_sum", "_count")
# Labels that Prometheus adds, `edge` by the relabelling in prometheus.yml.
ADDED = {"instance", "job", "le", "edge", "__name__"}
# What many an edge does not export, with its labels: without a TLS listener, without routes that
# hedge or have affinity, before the first token, the first move of a primary, the first wait for it.
ONLY_SOMETIMES = {
    "meridian_certificate_expiry_timestamp_seconds": {"listener", "name"},
    "meridian_client_crl_expiry_timestamp_seconds": {"listener"},
    "meridian_acme_failures_in_a_row": {"certificate"},
    "meridian_hedges_total": {"route", "outcome"},
    "meridian_affinity_total": {"route", "result"},
    "meridian_session_reads_total": {"route", "outcome"},
    "meridian_session_token_faults_total": {"route", "fault"},
    "meridian_failovers_total": {"service", "from", "to", "cause"},
    "meridian_primary_operations_total": {"service", "operation", "state"},
    "meridian_parked_requests": {"service"},
    "meridian_parked_requests_total": {"service", "outcome"},
    "meridian_parked_seconds_bucket": {"service"},
    "meridian_replication_behind": {"service", "region"},
}


def used(text):
    """Names of metrics in an expression or a page, with the labels that each is matched by."""
    labels = {name: set() for name in NAME.findall(text)}
    for name, matchers in SELECTOR.findall(text):
        labels[name] |= set(MATCHER.findall(matchers))
    return labels


def grouped(text):
    """Labels by which an expression groups or joins."""
    found = set()
    for group in GROUPING.findall(text):
        found |= {label.strip() for label in group.split(",") if label.strip()}
    return found


def exported(page):
    """Sample names of a /metrics page, with the labels that each carries."""
    labels = {}
    for line in page.splitlines():
        sample = SAMPLE.match(line)
        if sample:
            labels.setdefault(sample[1], set()).update(LABEL.findall(sample[2] or ""))
    return labels


def expressions(path):
    """The texts of a file in which metrics are named: queries of a dashboard, or all lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return [line.split(" #")[0] for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = []

    def walk(value, key=""):
        if isinstance(value, dict):
            for inner, child in value.items():
                walk(child, inner)
        elif isinstance(value, list):
            for child in value:
                walk(child, key)
        elif isinstance(value, str) and key in ("expr", "query", "definition"):
            found.append(value)

    walk(json.loads(text))
    return found


def findings(text, page):
    """What one expression uses that the page does not have."""
    found = []
    uses = used(text)
    for name, matched in sorted(uses.items()):
        if name not in page:
            found.append(f"no such metric: {name}")
        elif unknown := matched - page[name] - ADDED:
            found.append(f"{name} has no label {', '.join(sorted(unknown))}")
    if uses and all(name in page for name in uses):
        carried = set().union(*(page[name] for name in uses)) | ADDED
        found += [f"no metric here has label {label}" for label in sorted(grouped(text) - carried)]
    return found


def in_sources(directory):
    """Metric names that stand as string literals in Rust sources; labels are not known from there."""
    names = set()
    for path in sorted(pathlib.Path(directory).rglob("*.rs")):
        if "target" not in path.parts:
            names |= set(re.findall(r'"(meridian_[a-z0-9_]+)"', path.read_text(encoding="utf-8")))
    return names


def missing_in_sources(text, names):
    """Metrics of an expression whose family no source file names."""
    found = []
    for name in sorted(used(text)):
        families = {name} | {name.removesuffix(s) for s in SUFFIXES if name.endswith(s)}
        if not families & names:
            found.append(f"no such metric: {name}")
    return found


def read_page(where):
    """The text of a /metrics page from a file, from standard input (`-`) or from a URL."""
    if where == "-":
        return sys.stdin.read()
    if where.startswith(("http://", "https://")):
        with urllib.request.urlopen(where, timeout=5) as answer:
            return answer.read().decode()
    return pathlib.Path(where).read_text(encoding="utf-8")


def check_all(judge):
    """Applies `judge` to every expression of every file; returns how many, and what was found."""
    seen, found = 0, []
    for directory in USERS:
        for path in sorted((ROOT / directory).iterdir()):
            if path.suffix not in (".yml", ".json"):
                continue
            for text in expressions(path):
                seen += len(used(text))
                found += [f"{path.relative_to(ROOT)}: {what}" for what in judge(text)]
    return seen, sorted(set(found))


PAGE = """\
# HELP meridian_requests_total Requests.
# TYPE meridian_requests_total counter
meridian_requests_total{route="api",region="us-east-1",code_class="5xx"} 3
meridian_request_duration_seconds_bucket{route="api",le="0.1"} 3
meridian_table_generation 4
"""


class SelfTest(unittest.TestCase):
    def setUp(self):
        self.page = exported(PAGE)

    def test_the_page_is_read(self):
        self.assertEqual(self.page["meridian_table_generation"], set())
        self.assertEqual(
            self.page["meridian_requests_total"], {"route", "region", "code_class"}
        )

    def test_what_exists_passes(self):
        good = 'sum by (route) (rate(meridian_requests_total{code_class="5xx",job=~"m.*"}[5m]))'
        self.assertEqual(findings(good, self.page), [])
        good = "histogram_quantile(0.9, sum by (le) (rate(meridian_request_duration_seconds_bucket[5m])))"
        self.assertEqual(findings(good, self.page), [])

    def test_unknown_names_and_labels_are_found(self):
        for bad in [
            "meridian_request_total",
            "meridian_request_duration_seconds_count",
            'meridian_requests_total{status="5xx"}',
            "sum by (status) (meridian_requests_total)",
        ]:
            self.assertEqual(len(findings(bad, self.page)), 1, bad)

    def test_sources_are_asked_for_families(self):
        names = {"meridian_request_duration_seconds"}
        self.assertEqual(missing_in_sources("meridian_request_duration_seconds_sum", names), [])
        self.assertEqual(len(missing_in_sources("meridian_requests_total", names)), 1)

    def test_the_shipped_files_name_metrics(self):
        seen, _ = check_all(lambda text: [])
        self.assertGreater(seen, 20)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--metrics", metavar="FILE-OR-URL")
    what.add_argument("--source", metavar="DIRECTORY")
    what.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        unittest.main(argv=[sys.argv[0]])
    try:
        if arguments.source:
            names = in_sources(arguments.source)
            judge = lambda text: missing_in_sources(text, names)  # noqa: E731
        else:
            page = exported(read_page(arguments.metrics))
            names = {**ONLY_SOMETIMES, **page} if page else {}
            judge = lambda text: findings(text, names)  # noqa: E731
    except OSError as error:
        print(f"check_metrics_names: {error}", file=sys.stderr)
        return 2
    if not names:
        print("check_metrics_names: no meridian_* metric there", file=sys.stderr)
        return 2
    seen, found = check_all(judge)
    for sentence in found:
        print(sentence, file=sys.stderr)
    print(f"metric names: {seen} uses checked, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
