"""curl: HTTP/1.1, HTTP/2 over TLS, HTTP/2 with prior knowledge, and the upgrade to it."""

import json
import subprocess
from pathlib import Path

from front.certificates import HOST
from front.edge import Front, Settings
from harness import judge
from harness.judge import Check
from lab.machine import first_line

from cases.base import Case, Place, tool

UPLOAD = 3 << 20
CANNOT_REUSE = "--http2-prior-knowledge"
# Version that is asked for, how, over TLS, and the version that is spoken.
WAYS = (
    ("HTTP/1.1", "--http1.1", False, "1.1"),
    ("HTTP/1.1 over TLS", "--http1.1", True, "1.1"),
    ("HTTP/2 over TLS", "--http2", True, "2"),
    ("HTTP/2 with prior knowledge", CANNOT_REUSE, False, "2"),
    # RFC 9113, 3.1, has taken this upgrade away: the answer is one of HTTP/1.1.
    ("offer of h2c", "--http2", False, "1.1"),
)


class Curls(Case):
    name = "curl"
    title = "curl: every way to speak HTTP"
    programs = ("curl",)

    def version(self) -> str:
        return first_line([tool("curl"), "--version"], r"curl (\S+)")

    def run(self, place: Place) -> list[Check]:
        body = place.folder / "body"
        body.write_bytes(bytes(UPLOAD))
        site = place.program("site.py", place.address())
        wrong = []
        with place.front(Settings(site)) as front:
            for name, option, over_tls, version in WAYS:
                seen = asked(place, front, option, over_tls, body)
                self.figures[name] = seen
                want = {"version": version, "get": 200, "large": 4 << 20, "up": UPLOAD}
                want |= {"chunked": UPLOAD, "head": 200}
                want["again"] = None if option == CANNOT_REUSE else 0
                if seen != want:
                    wrong.append(f"{name}: {seen}")
        return [judge.none("; ".join(["not as it should be", *wrong]), len(wrong))]


def asked(place: Place, front: Front, option: str, over_tls: bool, body: Path) -> dict:
    scheme, address = ("https", front.tls) if over_tls else ("http", front.clear)
    port = address.rpartition(":")[2]
    base = f"{scheme}://{HOST}:{port}"
    usual = [tool("curl"), "--silent", "--show-error", "--max-time", "30", option]
    usual += ["--cacert", str(place.authority.root), "--resolve", f"{HOST}:{port}:127.0.0.1"]

    def curl(*arguments: str) -> str:
        done = subprocess.run(
            [*usual, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout if done.returncode == 0 else done.stderr.strip()

    def size(*arguments: str):
        try:
            return json.loads(curl(*arguments))["length"]
        except (ValueError, LookupError) as problem:
            return repr(problem)

    nothing = ("--output", "/dev/null")
    said = curl(*nothing, "--write-out", "%{http_code} %{http_version}", base).split()
    head = curl(*nothing, "--head", "--write-out", "%{http_code}", base)
    got = curl(*nothing, "--write-out", "%{size_download}", f"{base}/large")
    # Of two requests the second must not need a connection of its own. With prior knowledge curl
    # 7.88 fails over its own second one.
    again = (
        []
        if option == CANNOT_REUSE
        else curl(
            *("--write-out", "%{num_connects} ", *nothing, *nothing, f"{base}/a", f"{base}/b")
        ).split()
    )
    return {
        "version": said[-1],
        "get": number(said[0]),
        "head": number(head),
        "large": number(got),
        "up": size("--data-binary", f"@{body}", f"{base}/up"),
        "chunked": size(
            "--upload-file",
            str(body),
            "--header",
            "Content-Length:",
            *(() if said[-1] == "2" else ("--header", "Transfer-Encoding: chunked")),
            f"{base}/up",
        ),
        "again": number(again[-1]) if again else None,
    }


def number(text: str):
    return int(text) if text.isdigit() else text
