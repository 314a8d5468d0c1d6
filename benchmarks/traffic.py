"""Counts what each rank sends in a call, on 2 to 6 ranks, beside what the stencil predicts for it: writes traffic.csv.

Ranks are threads of one process; each counts what it sends over its own domain. An inner rank is one that is neither
the first nor the last. Rows and columns are those of the row's whole grid, with no more columns than make no
difference; channels are few.
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


def _call(shape: Shape, domain: Domain) -> Traffic:
    """What this rank sends in one forward and backward."""
    layer = cut_layer(serial_layer(shape), shape, domain)
    begin, end = (r * shape.rows // domain.size for r in (domain.rank, domain.rank + 1))
    sizes = list(shape.sizes)
    sizes[shape.cut_dim - 1] = end - begin
    x = torch.randn(1, *sizes, requires_grad=True)
    bytes_before, messages_before = domain.bytes_sent, domain.messages_sent
    layer(x).sum().backward()
    return Traffic(domain.bytes_sent - bytes_before, domain.messages_sent - messages_before)


def counted(shape: Shape, ranks: int, world: str) -> list[Traffic]:
    """What each of `ranks` ranks sends in one forward and backward, in rank order."""
    errors: list[BaseException] = []
    sent = [Traffic()] * ranks
    domains = [Domain.threads(world, rank, ranks) for rank in range(ranks)]

    def body(domain: Domain) -> None:
        try:
            sent[domain.rank] = _call(shape, domain)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=body, args=(domain,)) for domain in domains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for domain in domains:
        torch.ops.graticule.destroy_thread_group(domain.group_name)
    if errors:
        raise errors[0]
    return sent


def _range(numbers: list[int]) -> str:
    """The least and the most of them, or the one that they all are; nothing where there are none."""
    return " to ".join(str(number) for number in sorted({min(numbers), max(numbers)})) if numbers else ""


def _share(sent: int, expected: int) -> float:
    return sent / expected if expected else 1.0 + sent


def furthest(sent: list[int], expected: list[int]) -> float:
    """Sent / predicted of the rank that is furthest from its prediction; of two as far, the one that sends more."""
    return max(map(_share, sent, expected), key=lambda share: (abs(share - 1), share))


def record(name: str, sent: list[Traffic], expected: list[Traffic]) -> dict[str, Any]:
    """What the ranks of one domain sent and should have sent: sums, the inner ranks' numbers, and how each compares."""
    result: dict[str, Any] = {"row": name, "ranks": len(sent)}
    for what in ("messages", "bytes"):
        each = {"": [getattr(t, what) for t in sent], "predicted_": [getattr(t, what) for t in expected]}
        for kind, numbers in each.items():
            result[f"{kind}{what}"] = sum(numbers)
            result[f"{kind}inner_{what}"] = _range(numbers[1:-1])
        result[f"{what}_ratio"] = f"{furthest(*each.values()):.9g}"
    result["ranks_as_predicted"] = sum(s == e for s, e in zip(sent, expected, strict=True))
    return result


def measure(shape: Shape, numbers: range) -> list[dict[str, Any]]:
    small = thin(shape)
    return [
        record(
            shape.name,
            counted(small, ranks, f"{shape.name} {ranks}"),
            [predicted(small, ranks, rank) for rank in range(ranks)],
        )
        for ranks in numbers
    ]


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
