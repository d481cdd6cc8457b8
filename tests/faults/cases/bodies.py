"""Endpoints whose answers end too early. A client must never take half of one for the whole."""

import subprocess
import time

from cases.base import Case
from harness.judge import Check, at_least, none
from harness.traffic import GETS, POSTS, Flow
from harness.trial import Trial

CURL_TIMES = 5
CURL_SECONDS = "5"


def cut(kind: str) -> Flow:
    return Flow("cut", "GET", f"/{kind}", 10, 20)


class CutBodies(Case):
    """The ordinary load goes on beside it, over the same endpoints."""

    needs = ("curl",)
    kinds: tuple[str, ...] = ()

    def run(self, trial: Trial) -> None:
        trial.calm()
        trial.strike()
        end = time.monotonic() + trial.plan.hold
        codes = [h2_code(trial, kind) for kind in self.kinds for _ in range(CURL_TIMES)]
        trial.hold(max(end - time.monotonic(), 0))
        trial.heal()
        trial.settle()
        trial.figures["h2_cut_answers"] = len(codes)
        trial.figures["h2_clean_ends"] = codes.count(0)
        # curl: 18 body cut, 92 stream reset; 56 and 16 are a lost connection.
        trial.figures["h2_stream_resets"] = sum(code in (18, 92) for code in codes)

    def checks(self, trial: Trial) -> list[Check]:
        asked = trial.of("cut")
        clean = sum(request.status == 200 for request in asked)
        seen = sum(request.cause == "cut in the body" for request in asked)
        trial.figures |= {"cut_answers": len(asked), "seen_as_cut": seen, "clean_ends": clean}
        return [
            at_least("answers that were cut", len(asked), 20),
            none("cut answers that looked whole", clean),
            at_least("seen as cut by the client", seen, 1),
            none("cut answers that looked whole over HTTP/2", trial.figures["h2_clean_ends"]),
            at_least("streams reset over HTTP/2", trial.figures["h2_stream_resets"], 1),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]


class Reset(CutBodies):
    name = "reset"
    title = "RST and FIN in the middle of a body"
    short = True
    kinds = ("cut-reset", "cut-fin")
    flows = (GETS, POSTS, cut("cut-reset"), cut("cut-fin"))


class Truncated(CutBodies):
    name = "truncated"
    title = "chunked bodies that end without the last chunk, or inside one"
    short = True
    kinds = ("cut-chunks", "cut-chunk")
    flows = (GETS, POSTS, cut("cut-chunks"), cut("cut-chunk"))


def h2_code(trial: Trial, kind: str) -> int:
    """curl's exit code."""
    argv = ["curl", "-s", "-o", "/dev/null", "-m", CURL_SECONDS, "--http2-prior-knowledge"]
    url = f"http://{trial.site.address}/{kind}"
    return subprocess.run([*argv, url], check=False).returncode
