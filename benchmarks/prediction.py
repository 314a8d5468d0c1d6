"""What an exchange must send, worked out from the layer's stencil alone, without the library.

Output row o of a convolution reads input rows o * stride - padding + [0, kernel). A rank needs, forward, the input rows
of its outputs' windows that it does not own; backward, the gradients of those output rows whose windows touch its own
input rows and that it does not own. A transposed convolution has the two exchanged.
"""

from __future__ import annotations

import dataclasses
import math

from benchmarks.shapes import Shape

FLOAT = 4
DOUBLE = 8
# Strips are made at least so many output positions large, so that kernels work as on the whole tensor.
STRIP_POSITIONS = 256

Rows = set[int]


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one rank sends in a call."""

    bytes: int = 0
    messages: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.bytes + other.bytes, self.messages + other.messages)


@dataclasses.dataclass(frozen=True)
class Side:
    """Rows of a tensor: how many, and the bytes of one."""

    rows: int
    row_bytes: int


def sides(shape: Shape) -> tuple[Side, Side]:
    """The input and the output."""
    times = max(shape.times, 1), max(shape.output_times, 1)
    return (
        Side(shape.rows, shape.channels * times[0] * shape.columns * FLOAT),
        Side(shape.output_rows, shape.outputs * times[1] * shape.output_columns * FLOAT),
    )


def readers(shape: Shape) -> list[Rows]:
    """For each output row, the input rows that it depends on."""
    inputs, outputs = range(shape.rows), range(shape.output_rows)
    k, s, p = shape.kernel, shape.stride, shape.padding
    if shape.layer == "interpolate":
        return [_bilinear(o, shape.rows, shape.output_rows) for o in outputs]
    if shape.layer == "conv_transpose":
        return [{i for i in range((o + p - k + s) // s, (o + p) // s + 1) if i in inputs} for o in outputs]
    return [{i for i in range(o * s - p, o * s - p + k) if i in inputs} for o in outputs]


def _bilinear(o: int, rows: int, output_rows: int) -> Rows:
    source = max((o + 0.5) * rows / output_rows - 0.5, 0.0)
    first = min(math.floor(source), rows - 1)
    return {first, min(first + 1, rows - 1)}


def cut(rows: int, ranks: int) -> list[Rows]:
    return [set(range(r * rows // ranks, (r + 1) * rows // ranks)) for r in range(ranks)]


def _needed(shape: Shape, ranks: int) -> tuple[list[Rows], list[Rows]]:
    """Forward and backward: the rows that each rank's part depends on, its own or not."""
    owned = cut(shape.rows, ranks)
    reads = readers(shape)
    forward = [set().union(*(reads[o] for o in own)) for own in cut(shape.output_rows, ranks)]
    backward = [{o for o, rows in enumerate(reads) if rows & own} for own in owned]
    return forward, backward


def _exchange(needed: list[Rows], owned: list[Rows], row_bytes: int, sender: int) -> Traffic:
    sent = [len((wanted - owned[r]) & owned[sender]) for r, wanted in enumerate(needed)]
    return Traffic(sum(sent) * row_bytes, sum(rows > 0 for rows in sent))


def _statistics(groups: int, ranks: int) -> Traffic:
    """Two numbers a group in float64 to every other rank, forward and again backward."""
    return Traffic(2 * 2 * groups * DOUBLE * (ranks - 1), 2 * (ranks - 1))


def predicted(shape: Shape, ranks: int, rank: int) -> Traffic:
    """What `rank` sends in forward and backward."""
    total = Traffic()
    if shape.layer in ("group_norm", "conv_group_norm"):
        total = _statistics(shape.groups, ranks)
    if shape.layer == "group_norm":
        return total
    inputs, outputs = sides(shape)
    forward, backward = _needed(shape, ranks)
    total += _exchange(forward, cut(shape.rows, ranks), inputs.row_bytes, rank)
    return total + _exchange(backward, cut(shape.output_rows, ranks), outputs.row_bytes, rank)


def strip_bytes(shape: Shape, ranks: int, rank: int) -> int:
    """Memory that the cut may take on `rank` beside its share: halo rows sent and received, and the strips near its
    cuts, forward and backward: windows and what is computed from them, made large enough for the same kernels.
    """
    if shape.layer == "group_norm":
        return 2 * 2 * 2 * shape.groups * DOUBLE * ranks
    inputs, outputs = sides(shape)
    forward, backward = _needed(shape, ranks)
    reads = readers(shape)
    touched: list[Rows] = [set() for _ in range(shape.rows)]
    for o, rows in enumerate(reads):
        for i in rows:
            touched[i].add(o)
    positions = shape.columns * max(shape.times, 1), shape.output_columns * max(shape.output_times, 1)
    return _one_way(
        reads, forward, cut(shape.output_rows, ranks), cut(shape.rows, ranks), rank, inputs, outputs, positions[1]
    ) + (
        _one_way(
            touched,
            backward,
            cut(shape.rows, ranks),
            cut(shape.output_rows, ranks),
            rank,
            outputs,
            inputs,
            positions[0],
        )
    )


def _one_way(
    reads: list[Rows],
    needed: list[Rows],
    results: list[Rows],
    owned: list[Rows],
    rank: int,
    source: Side,
    result: Side,
    positions: int,
) -> int:
    halo = needed[rank] - owned[rank]
    sent = _exchange(needed, owned, source.row_bytes, rank).bytes
    total = len(halo) * source.row_bytes + sent
    least = -(-STRIP_POSITIONS // positions)
    for beyond in (lambda row: row < min(owned[rank]), lambda row: row > max(owned[rank])):
        seam = [o for o in results[rank] if any(map(beyond, reads[o]))]
        if not seam:
            continue
        from_start = min(seam) == min(results[rank])
        mine = sorted(results[rank], reverse=not from_start)[: max(len(seam), least)]
        windows = set().union(*(reads[o] for o in mine))
        total += len(windows) * source.row_bytes + len(mine) * result.row_bytes
    return total
