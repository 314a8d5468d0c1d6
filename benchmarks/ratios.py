"""From turns to medians and paired ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

# Numerator and denominator of every ratio that is reported, where both took part.
PAIRS = [
    *((name, "local") for name in ("null", "serial", "concat", "concat_kept", "mpi", "gloo")),
    *((name, "mpi") for name in ("serial", "concat", "concat_kept")),
]
KEYS = ("row", "scale", "layout", "mode")


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, between values linearly."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def paired(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of the ratios of turns of the same iteration."""
    return quartiles([a / b for a, b in zip(numerator, denominator, strict=True)])


def more_microseconds(times: Sequence[float], base: Sequence[float], calls: int) -> tuple[float, float, float]:
    """Quartiles of what a call takes more than one of `base`, of turns of the same iteration of so many calls each."""
    return quartiles([(a - b) / calls * 1e6 for a, b in zip(times, base, strict=True)])


def summarise(turns: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record for each pair of contenders of each row, layout and mode, in the order of the turns."""
    groups: dict[tuple, dict[str, list[float]]] = {}
    for turn in turns:
        group = groups.setdefault(tuple(turn[key] for key in KEYS), {})
        group.setdefault(turn["contender"], []).append(float(turn["seconds"]))
    result = []
    for facts, times in groups.items():
        for name, base in PAIRS:
            if name not in times or base not in times:
                continue
            low, middle, high = paired(times[name], times[base])
            result.append(
                {
                    **dict(zip(KEYS, facts, strict=True)),
                    "contender": name,
                    "base": base,
                    "iterations": len(times[name]),
                    "median_ms": f"{statistics.median(times[name]) * 1e3:.4g}",
                    "base_median_ms": f"{statistics.median(times[base]) * 1e3:.4g}",
                    "ratio": f"{middle:.4f}",
                    "ratio_q1": f"{low:.4f}",
                    "ratio_q3": f"{high:.4f}",
                }
            )
    return result


def spread(record: dict[str, Any]) -> float:
    """How far from 1 the quartiles of a null ratio lie: what the machine's noise can do to a ratio."""
    return max(abs(float(record["ratio_q1"]) - 1), abs(float(record["ratio_q3"]) - 1))
