"""Marked sections of a page: what stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`; and
the tables in them.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

NOTHING = "Not measured yet."


def replaced(page: str, name: str, text: str) -> str:
    """The page with this section's content replaced; an error if the page does not have it once."""
    pattern = re.compile(
        rf"(<!-- begin:{re.escape(name)} -->\n).*?(<!-- end:{re.escape(name)} -->)", re.DOTALL
    )
    page, count = pattern.subn(lambda m: f"{m.group(1)}\n{text or NOTHING}\n\n{m.group(2)}", page)
    if count != 1:
        raise ValueError(f"section {name!r} is in the page {count} times")
    return page


def names(page: str) -> list[str]:
    return re.findall(r"<!-- begin:([\w-]+) -->", page)


def rewritten(path: Path, texts: Mapping[str, Callable[[], str]]) -> str:
    """A page with all of its sections replaced; an error if it has one that nobody writes."""
    page = path.read_text()
    for name in names(page):
        if name not in texts:
            raise ValueError(f"{path} has a section {name!r} that nobody writes")
        page = replaced(page, name, texts[name]())
    return page


def lines(head: list[str], rows: list[list]) -> str:
    """A table, as markdown."""
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(text + ["| " + " | ".join(map(str, row)) + " |" for row in rows])
