"""The rows of the page, by name."""

from cases import browser, curls, slow, smuggling, sockets, tls
from cases.base import Case

_ALL: tuple[type[Case], ...] = (
    smuggling.Smuggling,
    tls.Sslyze,
    tls.Testssl,
    slow.Slow,
    browser.Browser,
    sockets.Sockets,
    curls.Curls,
)
CASES: dict[str, type[Case]] = {case.name: case for case in _ALL}
