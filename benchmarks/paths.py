"""How graticule computes each row, and why, as its layers tell a profiler. As a process of `python -m benchmarks`: of
all rows, in the sizes that are timed, without timing them: writes paths.csv.
"""

from __future__ import annotations

import pathlib
import re
import sys

import torch
import torch.distributed as dist

from benchmarks import options, records
from benchmarks.contenders import cut_contender
from benchmarks.processes import begin, end
from benchmarks.shapes import Shape, timed
from benchmarks.turns import Contender

DIRECTIONS = ("forward", "backward")
EVENT = re.compile(r"(?:DomainParallel)?(\S+) (forward|backward): (.+)")


def told(names: list[str], direction: str) -> str:
    """What the events of these names say of one direction, in their order; the layer before it where there are two."""
    events = [match.groups() for match in map(EVENT.fullmatch, names) if match]
    several = len({layer for layer, *_ in events}) > 1
    return "; ".join(f"{layer}: {what}" if several else what for layer, way, what in events if way == direction)


def paths_of(contender: Contender) -> list[str]:
    """Of forward and backward, as the contender tells them on this rank."""
    contender.clear()
    with torch.autograd.profiler.profile() as profile:
        contender.run("forward+backward")
    contender.clear()
    names = [event.name for event in profile.function_events]
    return [told(names, direction) for direction in DIRECTIONS]


def of_ranks(paths: list[str]) -> str:
    """The path of all ranks, or that of each where they differ."""
    if len(set(paths)) == 1:
        return paths[0]
    return "; ".join(f"rank {rank}: {path}" for rank, path in enumerate(paths))


def paths_record(shape: Shape, layout: str, contender: Contender) -> dict[str, str]:
    """One row's paths in one layout. All ranks must call; torch.distributed tells them each other's."""
    each: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(each, paths_of(contender))
    result = {"row": shape.name, "scale": str(shape.scale), "layout": layout}
    for i, direction in enumerate(DIRECTIONS):
        result[f"path_{direction}"] = of_ranks([paths[i] for paths in each])
    return result


def main() -> None:
    given = options.parse()
    p = begin(pathlib.Path(given.shared))
    paths = []
    for shape, layout in timed(given.rows, given.smoke, given.full):
        paths.append(paths_record(shape, layout, cut_contender(shape, layout, p)))
        if p.rank == 0:
            records.write(given.out / "paths.csv", paths)
            print(f"{shape.name}, {layout}", file=sys.stderr, flush=True)
    end(p)


if __name__ == "__main__":
    main()
