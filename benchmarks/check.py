"""Compares the ratios of a run with stored ones: `make bench-check`. Times are never compared.

A ratio is WORSE when it moved by more than the margin of its kind (benchmarks/stored.py) and the noise, the larger of
the two runs'. At most NOISE_CAP of noise counts: where more of it could explain the move, the ratio is NOISY, and to be
measured again. A stored ratio that the run lacks is MISSING: what is not measured is not checked. All three fail, but
MISSING not with --partial.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from benchmarks import records, runs
from benchmarks.stored import FILES, KINDS, Kind, Records, reference_of

NOISE_CAP = 0.05
REFERENCE = pathlib.Path(__file__).with_name("reference.csv")


def load(run: pathlib.Path) -> Records:
    """The ratios of a run's folder, or of the folder in which its layers.csv lies.

    FileNotFoundError: neither. ValueError: a smoke run, a --full one, or one that does not tell.
    """
    folder = run.parent if run.name == "layers.csv" else run
    if not folder.is_dir():
        what = "neither a folder of a run's CSV files nor the layers.csv in one"
        raise FileNotFoundError(f"{run} is {what}: run `make bench` first")
    runs.expect_standard(folder)
    return reference_of({name: records.read(folder / f"{name}.csv") for name in FILES})


def _worse_by(kind: Kind, stored: float, now: float) -> float:
    """How far a ratio moved for the worse, in the unit of its kind's margin."""
    by = stored - now if kind.downwards else abs(now - stored) if kind.exact else now - stored
    return by if kind.difference or not stored else by / stored


def _verdict(kind: Kind, stored: float, now: float, noise: float) -> str:
    """Nothing where the ratio passes."""
    beyond = _worse_by(kind, stored, now) - kind.margin
    if beyond <= min(noise, NOISE_CAP):
        return ""
    return "WORSE" if beyond > noise else "NOISY"


def _limit(kind: Kind, stored: float, noise: float) -> float:
    by = (kind.margin + min(noise, NOISE_CAP)) * (1.0 if kind.difference else stored)
    return stored - by if kind.downwards else stored + by


def compare(now: Records, stored: Records) -> Records:
    """One record a stored ratio: it, its limit, the run's, and the verdict, "" where it passes. Both: reference_of."""
    found = {(r["kind"], r["row"], r["case"]): r for r in now}
    result = []
    for old in stored:
        kind, was = KINDS[old["kind"]], float(old["ratio"])
        new = found.get((old["kind"], old["row"], old["case"]))
        noise = max(float(old["noise"]), float(new["noise"]) if new else 0.0)
        result.append(
            {
                **{key: old[key] for key in ("kind", "row", "case")},
                "stored": was,
                "limit": _limit(kind, was, noise),
                "now": float(new["ratio"]) if new else None,
                "verdict": _verdict(kind, was, float(new["ratio"]), noise) if new else "MISSING",
            }
        )
    return result


def failed(comparisons: Records, partial: bool = False) -> bool:
    """Whether any ratio fails; with `partial`, any that the run has."""
    passing = {"", "MISSING"} if partial else {""}
    return any(c["verdict"] not in passing for c in comparisons)


def table(comparisons: Records) -> str:
    """What was compared, by kind; what fails; and one line a kind, which counts what the run lacks too."""
    lines = [f"{'':58} {'':41} {'stored':>7} {'limit':>7} {'now':>7}"]
    for kind in [*KINDS, ""]:
        found = [c for c in comparisons if c["verdict"] != "MISSING"]
        chosen = [c for c in found if (c["kind"] == kind and not c["verdict"]) or (not kind and c["verdict"])]
        lines += [kind or "failures"] if chosen else []
        for c in chosen:
            what = f"{c['row']:58} {c['case']:41} {c['stored']:7.3f} {c['limit']:7.3f} {c['now']:7.3f}"
            lines.append(what if kind else f"{what}  {c['verdict']}, {c['kind']}")
    for kind in KINDS:
        verdicts = [c["verdict"] for c in comparisons if c["kind"] == kind]
        missing = verdicts.count("MISSING")
        lacking = f"; MISSING: {missing} stored ones" if missing else ""
        lines.append(f"{kind}: {verdicts.count('')} of {len(verdicts) - missing} are no worse than stored{lacking}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("run", type=pathlib.Path, help="the folder of a run's CSV files, or layers.csv in it")
    parser.add_argument("--reference", type=pathlib.Path, default=REFERENCE)
    parser.add_argument(
        "--partial", action="store_true", help="compare only what the run has, of some rows or parts (--rows, --parts)"
    )
    parser.add_argument("--store", action="store_true", help="store the run's ratios as the reference instead")
    given = parser.parse_args()
    try:
        now = load(given.run)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    absent = [kind for kind in KINDS if kind not in {r["kind"] for r in now}]
    if not now or (given.store and absent):
        print(f"{given.run} holds no ratios of {', '.join(absent)}: run `make bench` first", file=sys.stderr)
        return 2
    if given.store:
        records.write(given.reference, now)
        return 0
    stored = records.read(given.reference)
    if not stored:
        print(f"{given.reference} holds no ratios: store a run's with --store", file=sys.stderr)
        return 2
    comparisons = compare(now, stored)
    print(table(comparisons))
    return 1 if failed(comparisons, given.partial) else 0


if __name__ == "__main__":
    sys.exit(main())
