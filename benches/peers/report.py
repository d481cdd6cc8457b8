#!/usr/bin/env python3
"""Writes tables and plots from the raw figures of run.py and soak.py, and puts them into a page.

    report.py FILE.json ... [--page docs/performance.md]

Tables (markdown) and plots (SVG) go into the folder beside the page that is named like it;
sections of the page that are marked `<!-- begin:NAME -->` to `<!-- end:NAME -->` are replaced. Of
a mode that several files have, the last file counts. Without matplotlib the plots that are there
stay as they are.
"""

import argparse
import sys
from pathlib import Path

from reporting import sections, tables
from reporting.results import Results, load

TABLES = {
    "machine": tables.machine,
    "worse": tables.worse,
    "cpu": tables.cpu,
    "latency": tables.latency,
    "log": tables.log,
    "memory": tables.memory,
    "scale": tables.scale,
    "reload": tables.reload,
    "workers": tables.workers,
    "soak": tables.soak,
}
PLOTS = {
    "cpu": "CPU per request relative to the best peer",
    "log": "Cost of the access log",
    "scale": "CPU per request as configuration and clients grow",
    "soak": "Memory, open files, threads and latency over the soak",
}


def draw(results: Results, folder: Path) -> None:
    try:
        from reporting import plots
    except ImportError:
        print("report: no matplotlib: plots are left as they are", file=sys.stderr)
        return
    plots.draw_cpu(results, folder / "cpu.svg")
    plots.draw_log(results, folder / "log.svg")
    plots.draw_scale(results, folder / "scale.svg")
    if results.soak:
        plots.draw_soak(results.soak, folder / "soak.svg")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, nargs="+")
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    results = Results(load(options.json))
    folder = options.page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    draw(results, folder)
    page = options.page.read_text()
    for name in sections.names(page):
        if name not in TABLES:
            parser.error(f"{options.page} has a section {name!r} that nobody writes")
        text = TABLES[name](results)
        if text:
            (folder / f"{name}.md").write_text(text + "\n")
            if name in PLOTS and (folder / f"{name}.svg").exists():
                text = f"![{PLOTS[name]}]({folder.name}/{name}.svg)\n\n{text}"
        page = sections.replaced(page, name, text)
    options.page.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
