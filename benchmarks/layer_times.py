"""Times every row. A process of `python -m benchmarks`: writes turns.csv and memory.csv."""

from __future__ import annotations

import pathlib
import sys
import time

from benchmarks import options, records
from benchmarks.contenders import LAYOUTS, make_contenders, trains
from benchmarks.memory import memory_record
from benchmarks.processes import Processes, begin, end
from benchmarks.shapes import Shape, chosen
from benchmarks.turns import take_turns

WARM_UP = 2


def measure(shape: Shape, layout: str, iterations: int, warm_up: int, p: Processes) -> tuple[list[dict], list[dict]]:
    """The turns of one row in one layout, and its peak memory."""
    contenders = make_contenders(shape, layout, p)
    turns = []
    for mode in ("forward", "forward+backward") if trains(shape, layout) else ("forward",):
        facts = {"row": shape.name, "scale": str(shape.scale), "layout": layout, "mode": mode}
        times = take_turns(contenders, mode, iterations, warm_up, p.meeting, p.rank)
        for contender, seconds in times.items():
            turns += [
                {**facts, "contender": contender, "iteration": i, "seconds": f"{s:.6g}"} for i, s in enumerate(seconds)
            ]
    peaks = [memory_record(shape, layout, contenders, p)] if trains(shape, layout) else []
    return turns, peaks


def main() -> None:
    given = options.parse()
    p = begin(pathlib.Path(given.shared))
    turns: list[dict] = []
    peaks: list[dict] = []
    begun = time.monotonic()
    for shape in chosen(given.rows, given.smoke, given.full):
        for layout in LAYOUTS:
            new_turns, new_peaks = measure(shape, layout, given.iterations, 0 if given.smoke else WARM_UP, p)
            turns += new_turns
            peaks += new_peaks
            if p.rank == 0:
                records.write(given.out / "turns.csv", turns)
                records.write(given.out / "memory.csv", peaks)
                print(f"{time.monotonic() - begun:7.1f} s  {shape.name}, {layout}", file=sys.stderr, flush=True)
    end(p)


if __name__ == "__main__":
    main()
