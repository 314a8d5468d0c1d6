"""What a call costs beside its work: layers on a tensor of 1x8x32x32, forward and backward. Writes tiny.csv.

The tensor is the whole one: each rank has its rows. Contenders take turns by blocks of calls.
"""

from __future__ import annotations

import pathlib

from benchmarks import options, records
from benchmarks.contenders import make_contenders
from benchmarks.processes import begin, end
from benchmarks.ratios import more_microseconds, quartiles
from benchmarks.shapes import Shape
from benchmarks.turns import Contender, take_turns

SHAPES = [
    Shape("Conv2d 8->8 k3", "conv", 8, 8, 32, 32, 3, 1, 1),
    Shape("GroupNorm(4,8)", "group_norm", 8, 8, 32, 32, groups=4),
    Shape("PeriodicConv2d 8->8 k3", "periodic_conv", 8, 8, 32, 32, 3, 1, 1),
    Shape("Interpolate to 63x64", "interpolate", 8, 8, 32, 32, output_size=(63, 64)),
]
CALLS = 50
BLOCKS = 60


class Block(Contender):
    """A contender that makes many calls in one turn."""

    calls = CALLS

    def run(self, mode: str) -> None:
        for _ in range(self.calls):
            self.clear()
            super().run(mode)


def main() -> None:
    given = options.parse()
    p = begin(pathlib.Path(given.shared))
    Block.calls, blocks = (5, 2) if given.smoke else (CALLS, BLOCKS)
    lines = []
    for shape in SHAPES:
        everybody = make_contenders(shape, "contiguous", p)
        contenders = {
            name: Block(c.call, c.x, c.gradient, c.parameters) for name, c in everybody.items() if name != "serial"
        }
        times = take_turns(contenders, "forward+backward", blocks, 5, p.meeting, p.rank)
        for name in contenders:
            if name == "local":
                continue
            low, middle, high = more_microseconds(times[name], times["local"], Block.calls)
            lines.append(
                {
                    "layer": shape.name,
                    "contender": name,
                    "calls": blocks * Block.calls,
                    "local_us": f"{quartiles(times['local'])[1] / Block.calls * 1e6:.1f}",
                    "more_us": f"{middle:.1f}",
                    "more_us_q1": f"{low:.1f}",
                    "more_us_q3": f"{high:.1f}",
                }
            )
    if p.rank == 0:
        records.write(given.out / "tiny.csv", lines)
    end(p)


if __name__ == "__main__":
    main()
