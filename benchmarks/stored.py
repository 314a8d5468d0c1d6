"""What a later run is compared with: ratios of one run, of every kind, and how far each may move. No times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks.ratios import spread

Records = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """Ratios that get worse upwards, `downwards`, or by any change where they are `exact`.

    One may get worse by its `margin` and its noise: as a share of itself, or by that much where it is a `difference`,
    which may be near zero.
    """

    margin: float
    downwards: bool = False
    exact: bool = False
    difference: bool = False


# Margins of what is timed: what two runs of one machine differed by, rounded up, but for single rows.
KINDS = {
    "graticule / local": Kind(0.05),
    "concatenation / graticule": Kind(0.10, downwards=True),
    "peak memory / (serial share + strips)": Kind(0.01),
    "tiny: more than local / local": Kind(0.5, difference=True),
    "dispatch: more than plain / plain": Kind(0.15),
    "exchange / raw MPI": Kind(0.25),
    "sent / predicted": Kind(0.0, exact=True),
}
OVER_LOCAL, CONCATENATION, MEMORY, TINY, DISPATCH, EXCHANGE, TRAFFIC = KINDS
FILES = ("layers", "memory", "tiny", "dispatch", "halo_exchange", "traffic")


def _record(kind: str, row: str, case: str, ratio: float, noise: float = 0.0) -> dict[str, str]:
    # A byte too many of some millions shows.
    return {"kind": kind, "row": row, "case": case, "ratio": f"{ratio:.9g}", "noise": f"{noise:.4f}"}


def _of_layers(layers: Records) -> Iterator[dict[str, str]]:
    def facts(r: dict[str, Any]) -> tuple[str, ...]:
        return r["row"], r["scale"], r["layout"], r["mode"]

    noise = {facts(r): spread(r) for r in layers if r["contender"] == "null"}
    for r in layers:
        pair = r["contender"], r["base"]
        kind = OVER_LOCAL if pair in (("mpi", "local"), ("gloo", "local")) else CONCATENATION
        if kind == OVER_LOCAL or pair in (("concat", "mpi"), ("concat_kept", "mpi")):
            case = ", ".join((*facts(r)[1:], r["contender"]))
            yield _record(kind, r["row"], case, float(r["ratio"]), noise[facts(r)])


def _of_traffic(counts: Records) -> Iterator[dict[str, str]]:
    """Of the rank that is furthest from its prediction."""
    for r in counts:
        for what in ("messages", "bytes"):
            yield _record(TRAFFIC, r["row"], f"{what}, {r['ranks']} ranks", float(r[f"{what}_ratio"]))


def _of_dispatch(times: Records) -> Iterator[dict[str, str]]:
    """One ratio for all ops that move nothing: single ones take a few microseconds, and move with the machine."""
    alone = [r for r in times if not r["moved"]]
    if alone:
        more, plain = (sum(float(r[key]) for r in alone) for key in ("more_us", "plain_us"))
        yield _record(DISPATCH, f"{len(alone)} ops that move nothing", "mpi", more / plain)


def reference_of(tables: dict[str, Records]) -> Records:
    """Every ratio of a run's tables, by name. Noise: the spread of the null row beside it."""
    tiny = [r for r in tables.get("tiny", []) if r["contender"] == "mpi"]
    return [
        *_of_layers(tables.get("layers", [])),
        *(_record(MEMORY, r["row"], r["layout"], float(r["ratio"])) for r in tables.get("memory", [])),
        *(_record(TINY, r["layer"], "mpi", float(r["more_us"]) / float(r["local_us"])) for r in tiny),
        *_of_dispatch(tables.get("dispatch", [])),
        *(_record(EXCHANGE, f"{r['bytes']} bytes", "mpi", float(r["ratio"])) for r in tables.get("halo_exchange", [])),
        *_of_traffic(tables.get("traffic", [])),
    ]
