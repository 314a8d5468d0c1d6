"""Counts what a call sends, on 2 to 6 ranks as threads, beside what the stencil predicts: writes traffic.csv.

The counters are the process's, so they hold all ranks' sums; what one inner rank sends is the stencil's prediction.
Differences of sums would not tell it: with another number of ranks the cuts fall elsewhere in the stride.
Rows and columns are those of the row's whole grid, with no more columns than make no difference; channels are few.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import torch

from benchmarks import options, records
from benchmarks.modules import cut_layer, serial_layer
from benchmarks.prediction import STRIP_POSITIONS, Traffic, predicted
from benchmarks.shapes import SHAPES, Shape
from graticule import Domain

RANKS = range(2, 7)
SMOKE_RANKS = range(2, 4)


def thin(shape: Shape) -> Shape:
    """All rows, few channels, and no more columns than two for each position that a strip must have at least."""
    columns = min(shape.columns, 2 * STRIP_POSITIONS)
    size = shape.output_size and (shape.output_size[0], 2 * columns)
    return dataclasses.replace(
        shape, channels=4, outputs=4, groups=min(shape.groups, 2), columns=columns, output_size=size
    )


def _call(shape: Shape, domain: Domain) -> None:
    layer = cut_layer(serial_layer(shape), shape, domain)
    begin, end = (r * shape.rows // domain.size for r in (domain.rank, domain.rank + 1))
    sizes = list(shape.sizes)
    sizes[shape.cut_dim - 1] = end - begin
    layer(torch.randn(1, *sizes, requires_grad=True)).sum().backward()


def counted(shape: Shape, ranks: int, world: str) -> Traffic:
    """What all ranks of `ranks` send in one forward and backward."""
    errors: list[BaseException] = []

    def body(rank: int) -> None:
        try:
            domain = Domain.threads(world, rank, ranks)
            _call(shape, domain)
            names.append(domain.group_name)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    names: list[str] = []
    ops = torch.ops.graticule
    before = ops.bytes_sent(), ops.messages_sent()
    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        ops.destroy_thread_group(name)
    if errors:
        raise errors[0]
    return Traffic(ops.bytes_sent() - before[0], ops.messages_sent() - before[1])


def _range(numbers: list[int]) -> str:
    """The least and the most of them, or the one that they all are; nothing where there are none."""
    return " to ".join(str(number) for number in sorted({min(numbers), max(numbers)})) if numbers else ""


def measure(shape: Shape, numbers: range) -> list[dict[str, Any]]:
    small = thin(shape)
    totals = {ranks: counted(small, ranks, f"{shape.name} {ranks}") for ranks in numbers}
    result = []
    for ranks in numbers:
        each = [predicted(small, ranks, rank) for rank in range(ranks)]
        expected = sum(each, Traffic())
        result.append(
            {
                "row": shape.name,
                "ranks": ranks,
                "messages": totals[ranks].messages,
                "predicted_messages": expected.messages,
                "bytes": totals[ranks].bytes,
                "predicted_bytes": expected.bytes,
                "predicted_inner_messages": _range([t.messages for t in each[1:-1]]),
                "predicted_inner_bytes": _range([t.bytes for t in each[1:-1]]),
            }
        )
    return result


def main() -> None:
    given = options.parse()
    torch.set_num_threads(1)
    lines = []
    for shape in SHAPES:
        if given.rows in shape.name:
            lines += measure(shape, SMOKE_RANKS if given.smoke else RANKS)
    records.write(given.out / "traffic.csv", lines)


if __name__ == "__main__":
    main()
