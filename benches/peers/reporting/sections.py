"""Marked sections of a page: what stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`."""

import re

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
