"""What the library promises of its speed, beside what a run measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks.ratios import spread
from benchmarks.shapes import SHAPES, Shape

Records = list[dict[str, Any]]
FIRST = SHAPES[0]
TRAINING = "forward+backward"


@dataclasses.dataclass(frozen=True)
class Bar:
    """A promise: `measured` at most (or at least) `limit`, or within `noise` of it."""

    name: str
    limit: float
    measured: float
    noise: float = 0.0
    at_least: bool = False
    unit: str = ""

    @property
    def excess(self) -> float:
        """How far `measured` lies beyond the limit; below 0 where it does not."""
        return self.limit - self.measured if self.at_least else self.measured - self.limit

    @property
    def met(self) -> bool:
        return self.excess <= self.noise

    @property
    def verdict(self) -> str:
        """Yes, no, or "by noise": beyond the limit, by less than the local layer differs from itself."""
        return "yes" if self.excess <= 0 else "by noise" if self.met else "no"

    def record(self) -> dict[str, str]:
        sign = "at least" if self.at_least else "at most"
        return {
            "bar": self.name,
            "limit": f"{sign} {self.limit:g}{self.unit}",
            "measured": f"{self.measured:.3f}" if not self.unit else f"{self.measured:.1f}{self.unit}",
            "noise": f"{self.noise:.3f}",
            "met": self.verdict,
        }


def limit_over_local(shape: Shape, transport: str) -> float | None:
    """The most that forward and backward over `transport` may take, of the local layer's time. None: no promise, for
    convolutions smaller than the first row, and over Gloo for what is no convolution.
    """
    if shape.layer in ("group_norm", "interpolate"):
        return 1.10 if transport == "mpi" else None
    if shape.layer == "conv_transpose":
        return 1.05
    if shape.multiplications() < FIRST.multiplications():
        return None
    return 1.03 if transport == "mpi" else 1.05


def _over_local(layers: Records) -> Iterator[Bar]:
    shapes = {shape.name: shape for shape in SHAPES}
    noise = {(r["row"], r["layout"], r["mode"]): spread(r) for r in layers if r["contender"] == "null"}
    for r in layers:
        if r["mode"] != TRAINING or r["base"] != "local" or r["contender"] not in ("mpi", "gloo"):
            continue
        limit = limit_over_local(shapes[r["row"]], r["contender"])
        over = {"mpi": "MPI", "gloo": "Gloo"}[r["contender"]]
        if limit is not None:
            name = f"{r['row']}, {r['layout']}: graticule over {over} / local"
            yield Bar(name, limit, float(r["ratio"]), noise[r["row"], r["layout"], r["mode"]])


def _over_concatenation(layers: Records) -> Iterator[Bar]:
    noise = {(r["row"], r["layout"], r["mode"]): spread(r) for r in layers if r["contender"] == "null"}
    limits = {"contiguous": 1.05, "channels_last": 1.35}
    for r in layers:
        if (r["row"], r["mode"], r["contender"], r["base"]) == (FIRST.name, TRAINING, "concat", "mpi"):
            name = f"{r['row']}, {r['layout']}: concatenation / graticule"
            within = noise[r["row"], r["layout"], r["mode"]]
            yield Bar(name, limits[r["layout"]], float(r["ratio"]), within, at_least=True)


def _memory(peaks: Records) -> Iterator[Bar]:
    for r in peaks:
        yield Bar(f"{r['row']}, {r['layout']}: peak memory / (serial share + strips)", 1.03, float(r["ratio"]))


def _tiny(times: Records) -> Iterator[Bar]:
    noise = {
        r["layer"]: max(abs(float(r["more_us_q1"])), abs(float(r["more_us_q3"])))
        for r in times
        if r["contender"] == "null"
    }
    for r in times:
        if r["contender"] == "mpi":
            name = f"{r['layer']} on 1x8x32x32: more than local over MPI"
            yield Bar(name, 60, float(r["more_us"]), noise[r["layer"]], unit=" us")


def _dispatch(times: Records) -> Iterator[Bar]:
    """Of ops that move nothing: what the others cost more is mostly messages."""
    for r in times:
        if not r["moved"]:
            ops = int(r["aten_ops"])
            noise = max(abs(float(r["null_us_q1"])), abs(float(r["null_us_q3"]))) / ops
            name = f"{r['op']} on a cut tensor of 1x8x32x32: dispatch of an op, more than the plain call"
            yield Bar(name, 60, float(r["more_us"]) / ops, noise, unit=" us")


def _exchange(times: Records) -> Iterator[Bar]:
    for r in times:
        limit = round(float(r["raw_us"]) * 1.3 + 5, 1)
        yield Bar(
            f"halo of {r['bytes']} bytes: exchange, of raw MPI x 1.3 + 5 us",
            limit,
            float(r["graticule_us"]),
            unit=" us",
        )


def _traffic(counts: Records) -> Iterator[Bar]:
    """Of the rank that is furthest from its prediction."""
    for r in counts:
        if r["ranks"] == "6" and (int(r["predicted_bytes"]) or int(r["bytes"])):
            yield Bar(f"{r['row']}, 6 ranks: bytes sent / predicted", 1.0, float(r["bytes_ratio"]))


def bars(tables: dict[str, Records]) -> list[Bar]:
    """Every bar that the tables, by name, can tell about."""
    return [
        *_over_local(tables.get("layers", [])),
        *_over_concatenation(tables.get("layers", [])),
        *_memory(tables.get("memory", [])),
        *_tiny(tables.get("tiny", [])),
        *_dispatch(tables.get("dispatch", [])),
        *_exchange(tables.get("halo_exchange", [])),
        *_traffic(tables.get("traffic", [])),
    ]
