"""Whether the edge stays the same: the second quarter of the samples against the last.

The first quarter is warm-up: pools fill, the heap finds its size. Latency is compared in those
samples only in which no region was down: with and without a fault there are two latencies, and a
median over both would jump from one to the other.
"""

import statistics

# quantity: allowed growth as a share, and beside it as a number
ALLOWED = {
    "rss_kib": (0.05, 2048),
    "descriptors": (0.10, 16),
    "threads": (0.0, 2),  # a pool for blocking work comes and goes
    "p99_us": (0.25, 2000),
}
FEWEST_SAMPLES = 8
RECOVERY_SECONDS = 3.0  # until health checks have the region back


def quiet(samples: list[dict], faults: list[dict], length: float) -> list[dict]:
    """The samples, each `length` seconds long, that no fault touched."""

    def is_touched(sample: dict) -> bool:
        begin = sample["at"] - length
        return any(
            fault["at"] < sample["at"] and begin < fault["at"] + fault["seconds"] + RECOVERY_SECONDS
            for fault in faults
        )

    return [sample for sample in samples if not is_touched(sample)]


def judge(samples: list[dict], faults: list[dict], length: float) -> dict:
    """For each quantity both medians and whether it is flat; `flat` only if all are."""
    if len(samples) < FEWEST_SAMPLES:
        return {"flat": False, "reason": f"only {len(samples)} samples, {FEWEST_SAMPLES} needed"}
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    found = {}
    for key, (share, number) in ALLOWED.items():
        before, after = (
            median_of(quiet(part, faults, length) if key == "p99_us" else part, key)
            for part in (second, last)
        )
        if before is None or after is None:
            found[key] = {"flat": False, "reason": "no figures without a fault"}
            continue
        found[key] = {
            "second_quarter": before,
            "last_quarter": after,
            "allowed": before * (1 + share) + number,
            "flat": after <= before * (1 + share) + number,
        }
    hours = (last[0]["at"] - second[0]["at"]) / 3600
    rss = found["rss_kib"]
    if "allowed" in rss and hours > 0:
        rss["kib_per_hour"] = (rss["last_quarter"] - rss["second_quarter"]) / hours
    return {"flat": all(entry["flat"] for entry in found.values()), "quantities": found}


def median_of(samples: list[dict], key: str) -> float | None:
    values = [sample[key] for sample in samples if sample.get(key) is not None]
    return statistics.median(values) if values else None
