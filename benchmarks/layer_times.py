"""Times every row. A process of `python -m benchmarks`: writes turns.csv, memory.csv and paths.csv."""

from __future__ import annotations

import pathlib
import sys
import time

from benchmarks import options, records
from benchmarks.contenders import make_contenders
from benchmarks.memory import memory_record
from benchmarks.paths import paths_record
from benchmarks.processes import Processes, begin, end
from benchmarks.shapes import Shape, timed
from benchmarks.turns import take_turns

WARM_UP = 2
TABLES = ("turns", "memory", "paths")


def earlier(folder: pathlib.Path) -> dict[str, list[dict]]:
    """What the folder's tables tell of rows that all of them have: a row's records are written when it is done."""
    tables: dict[str, list[dict]] = {name: list(records.read(folder / f"{name}.csv")) for name in TABLES}
    whole = set.intersection(*({(record["row"], record["layout"]) for record in table} for table in tables.values()))
    return {name: [r for r in table if (r["row"], r["layout"]) in whole] for name, table in tables.items()}


def measure(shape: Shape, layout: str, iterations: int, warm_up: int, p: Processes) -> dict[str, list[dict]]:
    """The turns of one row in one layout, its peak memory and its paths."""
    contenders = make_contenders(shape, layout, p)
    paths = [paths_record(shape, layout, contenders["mpi"])]
    turns = []
    for mode in ("forward", "forward+backward"):
        facts = {"row": shape.name, "scale": str(shape.scale), "layout": layout, "mode": mode}
        times = take_turns(contenders, mode, iterations, warm_up, p.meeting, p.rank)
        for contender, seconds in times.items():
            turns += [
                {**facts, "contender": contender, "iteration": i, "seconds": f"{s:.6g}"} for i, s in enumerate(seconds)
            ]
    peaks = [memory_record(shape, layout, contenders, p)]
    return {"turns": turns, "memory": peaks, "paths": paths}


def main() -> None:
    given = options.parse()
    p = begin(pathlib.Path(given.shared))
    tables = earlier(given.out) if given.resume else {name: [] for name in TABLES}
    known = {(record["row"], record["layout"]) for record in tables["turns"]}
    begun = time.monotonic()
    for shape, layout in timed(given.rows, given.smoke, given.full):
        if (shape.name, layout) in known:
            continue
        for name, lines in measure(shape, layout, given.iterations, 0 if given.smoke else WARM_UP, p).items():
            tables[name] += lines
            if p.rank == 0:
                records.write(given.out / f"{name}.csv", tables[name])
        if p.rank == 0:
            print(f"{time.monotonic() - begun:7.1f} s  {shape.name}, {layout}", file=sys.stderr, flush=True)
    end(p)


if __name__ == "__main__":
    main()
