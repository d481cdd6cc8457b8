"""Reads a callgrind dump: where a request's instructions go, by function and by source file.

callgrind_annotate splits a function by the files of what was inlined into it and counts calls twice
that way; here a function is one row, and inlined code shows in the table by source file.
"""

import collections
import re

TOP = 40
NAMED = re.compile(r"(c?ob|c?f[lien]|cfn|fn)=\((\d+)\)(?: (.*))?$")
SPACES = {"ob": "object", "cob": "object", "fn": "function", "cfn": "function"}
NOISE = re.compile(
    r"^.*/registry/src/[^/]+/|^/rustc/[0-9a-f]+/library/|^.*/rustlib/src/rust/library/"
    r"|^.*/(?=(?:proxy|config|geoip)/[a-z/]*src/)")


class Profile:
    """Self and inclusive instructions of one dump."""

    def __init__(self, path):
        self.total = 0
        self.self_by_function = collections.Counter()
        self.self_by_file = collections.Counter()
        self.self_by_line = collections.Counter()
        self.called = collections.Counter()
        self.calls = collections.Counter()
        self.names = collections.defaultdict(dict)
        with open(path, encoding="utf-8", errors="replace") as lines:
            self._read(lines)

    def _read(self, lines):
        function = file = callee = None
        line, is_call = 0, False
        for text in lines:
            text = text.rstrip("\n")
            first = text[:1]
            if first.isdigit() or first in ("+", "-", "*"):
                position, cost = (text.split() + ["0"])[:2]
                line = self._position(line, position)
                cost = int(cost)
                if is_call:
                    self.called[function, callee] += cost
                else:
                    self.self_by_function[function] += cost
                    self.self_by_file[file] += cost
                    self.self_by_line[f"{file}:{line}"] += cost
                    self.total += cost
                is_call = False
            elif text.startswith("calls="):
                is_call = True
                self.calls[callee] += int(text[6:].split()[0])
            elif named := NAMED.match(text):
                key, name = named.group(1), self._name(*named.groups())
                if key == "fn":
                    function = name
                elif key == "cfn":
                    callee = name
                elif key in ("fl", "fi", "fe"):
                    file = name

    @staticmethod
    def _position(line, text):
        if text[0] in "+-":
            return line + int(text)
        return line if text[0] == "*" else int(text)

    def _name(self, key, number, name):
        space = self.names[SPACES.get(key, "file")]
        if name is not None:
            space[number] = NOISE.sub("", name)
        return space[number]

    def inclusive(self):
        """Self plus what a function's calls cost; calls of itself are not counted again."""
        out = collections.Counter(self.self_by_function)
        for (caller, callee), cost in self.called.items():
            if caller != callee:
                out[caller] += cost
        return out

    def self_by_crate(self):
        """Self by the directory of a crate's sources, or the C library's file."""
        out = collections.Counter()
        for file, cost in self.self_by_file.items():
            crate, source, _ = file.partition("/src/")
            out[crate if source else file] += cost
        return out

    def tables(self, requests):
        """The text of all tables, in instructions per request."""
        inclusive = self.inclusive()
        parts = [f"{self.total / requests:,.0f} instructions a request, {requests:,} requests"]
        for title, rows, calls in (
            ("inclusive, by function", inclusive, True),
            ("self, by function", self.self_by_function, True),
            ("self, by crate", self.self_by_crate(), False),
            ("self, by source file (inlined code counts where it was written)",
             self.self_by_file, False),
            ("self, by source line", self.self_by_line, False),
        ):
            parts.append(f"\n{title}\n{'a request':>10} {'share':>6} {'calls':>7}  name")
            for name, cost in rows.most_common(TOP):
                count = f"{self.calls[name] / requests:.2f}" if calls else ""
                share = cost / self.total
                parts.append(f"{cost / requests:10,.1f} {share:6.1%} {count:>7}  {name}")
        return "\n".join(parts)
