#!/usr/bin/env python3
"""Checks the licence and the version floor of every package that Cargo.lock names.

    check_dependencies.py [--metadata FILE]     FILE: saved `cargo metadata` JSON; default: ask cargo
    check_dependencies.py --self-test

A licence expression is read as SPDX defines it: of an OR one side must be allowed, of an AND both.
Exit codes: 0 all well, 1 at least one finding, 2 usage or no metadata.
"""

import argparse
import json
import re
import subprocess
import sys
import unittest

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
}

# Older releases have published vulnerabilities or lack what Meridian relies on. A name that ends in
# "*" stands for all packages that begin so. A package that is not in the graph is not asked for.
FLOORS = {
    "pingora-*": "0.9.1",
    "h2": "0.4.20",
    "rustls": "0.23.45",
    "rustls-webpki": "0.103.13",
    "maxminddb": "0.27",
    "bytes": "1.11.1",
}


class BadExpression(ValueError):
    """The licence field is not an SPDX expression."""


def allows(expression, allowed=ALLOWED):
    """Whether the SPDX expression can be met with allowed licences only."""
    # Cargo still accepts the old "MIT/Apache-2.0", which means OR.
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    verdict, rest = _either(tokens, allowed)
    if rest:
        raise BadExpression(f"unexpected {rest[0]!r} in {expression!r}")
    return verdict


def _either(tokens, allowed):
    verdict, tokens = _both(tokens, allowed)
    while tokens and tokens[0] == "OR":
        right, tokens = _both(tokens[1:], allowed)
        verdict = verdict or right
    return verdict, tokens


def _both(tokens, allowed):
    verdict, tokens = _single(tokens, allowed)
    while tokens and tokens[0] == "AND":
        right, tokens = _single(tokens[1:], allowed)
        verdict = verdict and right
    return verdict, tokens


def _single(tokens, allowed):
    if not tokens or tokens[0] in (")", "OR", "AND", "WITH"):
        raise BadExpression(f"a licence is missing before {' '.join(tokens) or 'the end'!r}")
    name, tokens = tokens[0], tokens[1:]
    if name == "(":
        verdict, tokens = _either(tokens, allowed)
        if not tokens or tokens[0] != ")":
            raise BadExpression("a parenthesis is not closed")
        return verdict, tokens[1:]
    if tokens and tokens[0] == "WITH":
        if len(tokens) < 2:
            raise BadExpression("an exception is missing after 'WITH'")
        # An exception only grants more, so the plain licence being allowed is enough.
        with_exception = f"{name} WITH {tokens[1]}"
        return name in allowed or with_exception in allowed, tokens[2:]
    return name in allowed, tokens


def release(version):
    """Sort key of a semantic version; a pre-release sorts before its release."""
    core, _, pre = version.split("+")[0].partition("-")
    numbers = [int(part) for part in core.split(".")]
    return (*numbers, *[0] * (3 - len(numbers)), pre == "")


def floor_of(name):
    """The floor that applies to the package, or None."""
    for pattern, floor in FLOORS.items():
        if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
            return floor
    return None


def findings(packages):
    """One sentence for each package that breaks a rule."""
    found = []
    for package in sorted(packages, key=lambda p: (p["name"], p["version"])):
        label = f"{package['name']} {package['version']}"
        licence = package.get("license")
        try:
            if not licence:
                found.append(f"{label}: names no licence expression")
            elif not allows(licence):
                found.append(f"{label}: licence {licence!r} is not allowed")
        except BadExpression as error:
            found.append(f"{label}: licence {licence!r} cannot be read: {error}")
        floor = floor_of(package["name"])
        if floor and release(package["version"]) < release(floor):
            found.append(f"{label}: must be {floor} or newer")
    return found


def load(path):
    """The packages of the workspace's dependency graph."""
    if path:
        with open(path, encoding="utf-8") as file:
            return json.load(file)["packages"]
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)["packages"]


class SelfTest(unittest.TestCase):
    def test_or_needs_one_side_and_needs_both(self):
        self.assertTrue(allows("GPL-3.0 OR MIT"))
        self.assertTrue(allows("GPL-3.0/MIT"))
        self.assertFalse(allows("GPL-3.0 AND MIT"))
        self.assertTrue(allows("Apache-2.0 AND ISC"))
        self.assertFalse(allows("GPL-3.0"))

    def test_and_binds_tighter_than_or(self):
        self.assertTrue(allows("MIT OR GPL-3.0 AND GPL-2.0"))
        self.assertFalse(allows("(MIT OR GPL-3.0) AND GPL-2.0"))
        self.assertTrue(allows("(MIT OR GPL-3.0) AND (ISC)"))

    def test_exceptions(self):
        self.assertTrue(allows("Apache-2.0 WITH LLVM-exception OR GPL-3.0"))
        self.assertFalse(allows("GPL-2.0 WITH Classpath-exception-2.0"))

    def test_unreadable_expressions_are_errors(self):
        for broken in ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT ISC", "MIT WITH"]:
            with self.assertRaises(BadExpression, msg=broken):
                allows(broken)

    def test_versions_are_ordered(self):
        self.assertLess(release("0.4.9"), release("0.4.20"))
        self.assertLess(release("1.0.0-rc.1"), release("1.0.0"))
        self.assertEqual(release("0.27"), release("0.27.0+build"))

    def test_findings(self):
        def package(name, version, licence="MIT"):
            return {"name": name, "version": version, "license": licence}

        self.assertEqual(findings([package("h2", "0.4.20"), package("h3", "0.0.1")]), [])
        self.assertEqual(len(findings([package("pingora-core", "0.9.0")])), 1)
        self.assertEqual(len(findings([package("x", "1.0.0", "AGPL-3.0")])), 1)
        self.assertEqual(len(findings([package("x", "1.0.0", None)])), 1)
        self.assertEqual(len(findings([package("x", "1.0.0", "MIT OR")])), 1)
        self.assertEqual(len(findings([package("bytes", "1.11.0", "AGPL-3.0")])), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metadata", metavar="FILE")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        unittest.main(argv=[sys.argv[0]])
    try:
        packages = load(arguments.metadata)
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        print(f"check_dependencies: no metadata: {error}", file=sys.stderr)
        return 2
    found = findings(packages)
    for sentence in found:
        print(sentence, file=sys.stderr)
    print(f"dependencies: {len(packages)} packages checked, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
