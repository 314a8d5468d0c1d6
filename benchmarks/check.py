"""Compares the ratios of a run with stored ones: `make bench-check`. Times are never compared.

A ratio of graticule to the local layer is worse when it lies above the stored one by more than MARGIN and the spread of
both runs' null rows. A stored row that the run lacks is a failure too: what is not measured is not checked.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from benchmarks import records
from benchmarks.ratios import spread

MARGIN = 0.05
CHECKED = ("mpi", "gloo")
REFERENCE = pathlib.Path(__file__).with_name("reference.csv")
Records = list[dict[str, Any]]
Key = tuple[str, str, str, str]


def reference_of(layers: Records) -> Records:
    """What is stored of a run: ratios of graticule to the local layer, and the null row's spread beside each."""
    noise = {_facts(r): spread(r) for r in layers if r["contender"] == "null"}
    return [
        {
            **dict(zip(("row", "scale", "layout", "mode"), _facts(r), strict=True)),
            "contender": r["contender"],
            "ratio": r["ratio"],
            "null_spread": f"{noise[_facts(r)]:.4f}",
        }
        for r in layers
        if r["contender"] in CHECKED and r["base"] == "local"
    ]


def _facts(record: dict[str, Any]) -> Key:
    return record["row"], record["scale"], record["layout"], record["mode"]


def compare(now: Records, stored: Records, margin: float = MARGIN) -> Records:
    """One record a stored ratio: the two ratios, the most that passes, and whether it does. Both as reference_of."""
    found = {(*_facts(r), r["contender"]): r for r in now}
    result = []
    for old in stored:
        new = found.get((*_facts(old), old["contender"]))
        noise = max(float(old["null_spread"]), float(new["null_spread"]) if new else 0.0)
        most = float(old["ratio"]) + margin + noise
        result.append(
            {
                "row": old["row"],
                "layout": old["layout"],
                "mode": old["mode"],
                "contender": old["contender"],
                "stored": float(old["ratio"]),
                "most": most,
                "now": float(new["ratio"]) if new else None,
                "passes": new is not None and float(new["ratio"]) <= most,
            }
        )
    return result


def table(comparisons: Records) -> str:
    lines = [f"{'row':58} {'layout':14} {'mode':17} {'over':5} {'stored':>7} {'most':>7} {'now':>7}"]
    for c in comparisons:
        now = "absent" if c["now"] is None else f"{c['now']:.3f}"
        verdict = "" if c["passes"] else "  WORSE" if c["now"] is not None else "  MISSING"
        lines.append(
            f"{c['row']:58} {c['layout']:14} {c['mode']:17} {c['contender']:5} {c['stored']:7.3f} {c['most']:7.3f} "
            f"{now:>7}{verdict}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("layers", type=pathlib.Path, help="layers.csv of a run")
    parser.add_argument("--reference", type=pathlib.Path, default=REFERENCE)
    parser.add_argument("--margin", type=float, default=MARGIN)
    parser.add_argument("--store", action="store_true", help="store the run's ratios as the reference instead")
    given = parser.parse_args()
    now = reference_of(records.read(given.layers))
    if not now:
        print(f"{given.layers} holds no ratios: run `make bench` first", file=sys.stderr)
        return 2
    if given.store:
        records.write(given.reference, now)
        return 0
    stored = records.read(given.reference)
    if not stored:
        print(f"{given.reference} holds no ratios: store a run's with --store", file=sys.stderr)
        return 2
    comparisons = compare(now, stored, given.margin)
    print(table(comparisons))
    failures = sum(not c["passes"] for c in comparisons)
    print(f"{len(comparisons) - failures} of {len(comparisons)} ratios are no worse than stored")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
