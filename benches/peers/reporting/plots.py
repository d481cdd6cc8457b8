"""The plots, as SVG that is the same for the same figures."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "meridian",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }
)

import matplotlib.pyplot as plt  # after the choice of what draws

from reporting.comparison import CPU_MODES, best_peer
from reporting.results import Results, is_meridian, main_meridian

HIGHEST_SHARE = 2.0  # bars end here; their labels have the figure
COLOURS = ["#0b6e4f", "#7fb069", "#5b7db1", "#d17a22", "#9a6fb0", "#888888"]


def save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n")


def grouped_bars(axes, groups: list[str], series: dict[str, list[float | None]]) -> None:
    width = 0.8 / len(series)
    for place, (name, values) in enumerate(series.items()):
        positions = [
            group + (place - (len(series) - 1) / 2) * width for group in range(len(groups))
        ]
        heights = [min(value or 0, HIGHEST_SHARE) for value in values]
        bars = axes.bar(positions, heights, width * 0.95, label=name, color=COLOURS[place % 6])
        axes.bar_label(bars, [f"{value:.2f}" if value else "" for value in values], fontsize=6)
    axes.set_xticks(range(len(groups)), groups)


def draw_cpu(results: Results, path: Path) -> bool:
    """CPU per request as a share of the best peer's."""
    modes = [mode for mode in CPU_MODES if best_peer(results, mode, "cpu_us")]
    if not modes:
        return False
    best = {
        mode: results.median(mode, best_peer(results, mode, "cpu_us"), "cpu_us") for mode in modes
    }
    series = {}
    for name in results.proxies(*modes):
        own = [results.median(mode, name, "cpu_us") for mode in modes]
        series[name] = [value / best[mode] if value else None for mode, value in zip(modes, own)]
    figure, axes = plt.subplots(figsize=(9, 3.6))
    grouped_bars(axes, modes, series)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylim(0, HIGHEST_SHARE * 1.06)
    axes.set_ylabel("CPU per request, best peer = 1")
    figure.legend(ncols=len(series), frameon=False, loc="outside upper center")
    save(figure, path)
    return True


def draw_log(results: Results, path: Path) -> bool:
    costs = {
        f"{name}\n{kind}": results.difference("log", name, "cpu_us", kind, "off")
        for name in results.proxies("log")
        for kind in results.variants("log", name)
        if kind != "off"
    }
    costs = {name: cost for name, cost in costs.items() if cost is not None}
    if not costs:
        return False
    figure, axes = plt.subplots(figsize=(8, 2.6))
    colours = [COLOURS[0] if name.startswith("meridian") else COLOURS[2] for name in costs]
    bars = axes.bar(list(costs), list(costs.values()), 0.6, color=colours)
    axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_ylabel("µs per request, on − off")
    save(figure, path)
    return True


def scale_curves(results: Results) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What grows -> who -> how far it has grown and what a request costs then."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    meridian = main_meridian(results, "scale")
    peers = [name for name in results.proxies("scale") if not is_meridian(name)]
    for name in [meridian, *peers] if meridian else []:
        for variant in results.variants("scale", name):
            curve, _, value = variant.partition("=")
            cost = results.median("scale", name, "cpu_us", variant)
            if cost is not None:
                curves.setdefault(curve, {}).setdefault(name, []).append((float(value), cost))
    return curves


def draw_scale(results: Results, path: Path) -> bool:
    """One curve for each thing that grows. Connections have a scale of cost of their own: a
    single one never lets the proxy do two things in one go."""
    curves = scale_curves(results)
    if not curves:
        return False
    figure, grid = plt.subplots(1, len(curves), figsize=(2.4 * len(curves), 2.6), squeeze=False)
    costs = [
        cost
        for curve, lines in curves.items()
        if curve != "connections"
        for points in lines.values()
        for _, cost in points
    ]
    top = max(costs, default=None)
    for axes, (curve, lines) in zip(grid[0], curves.items()):
        for place, (name, points) in enumerate(lines.items()):
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(*zip(*sorted(points)), marker="o", markersize=3, color=colour, label=name)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=6)
        axes.set_xscale("log")
        axes.set_xlabel(curve)
        axes.set_ylim(0, None if curve == "connections" or top is None else top * 1.2)
        axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("CPU µs per request")
    save(figure, path)
    return True


def draw_soak(record: dict, path: Path) -> bool:
    """Memory, open files and threads, and latency over time; a line where a region failed."""
    samples = record["samples"]
    if not samples:
        return False
    minutes = [sample["at"] / 60 for sample in samples]
    figure, (memory, files, latency) = plt.subplots(3, 1, figsize=(8, 5), sharex=True)
    memory.plot(minutes, [sample["rss_kib"] / 1024 for sample in samples], color=COLOURS[0])
    memory.set_ylabel("resident MiB")
    for key, colour in (("descriptors", COLOURS[2]), ("threads", COLOURS[3])):
        files.plot(minutes, [sample[key] for sample in samples], label=key, color=colour)
    for key, colour in (("p50_us", COLOURS[1]), ("p99_us", COLOURS[0])):
        values = [None if sample[key] is None else sample[key] / 1000 for sample in samples]
        latency.plot(
            minutes,
            [float("nan") if v is None else v for v in values],
            label=key.removesuffix("_us"),
            color=colour,
        )
    latency.set_yscale("log")
    latency.set_ylabel("ms")
    latency.set_xlabel("minutes")
    for axes in (memory, files, latency):
        for fault in record["faults"]:
            axes.axvline(fault["at"] / 60, color="#cc3333", linewidth=0.5, alpha=0.3)
    for axes in (memory, files):
        axes.set_ylim(bottom=0)
    for axes in (files, latency):
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)
    return True
