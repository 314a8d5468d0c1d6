"""Bytes that graticule's ops would send, from their arguments alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

Interval = tuple[int, int]

# Sums of so many bytes are gathered and added in rank order, larger ones are left to the transport
# (src/comm/collectives.cpp).
_MOST_ORDERED_BYTES = 64 << 10


def _common(a: Interval, b: Interval) -> int:
    return max(min(a[1], b[1]) - max(a[0], b[0]), 0)


def _row_bytes(x: Tensor, dim: int) -> int:
    return x.element_size() * (x.numel() // max(x.shape[dim], 1))


def _own(offsets: list[int], rank: int) -> Interval:
    return offsets[rank], offsets[rank + 1]


def _sent(offsets: list[int], wanted: list[Interval], rank: int) -> int:
    """Rows that a rank owns and others want."""
    return sum(_common(_own(offsets, rank), of) for peer, of in enumerate(wanted) if peer != rank)


def _received(offsets: list[int], wanted: list[Interval], rank: int) -> int:
    return _common(wanted[rank], (0, offsets[-1])) - _common(wanted[rank], _own(offsets, rank))


def _turns(offsets: list[int], wanted: list[Interval], boundary: str) -> list[list[Interval]]:
    """The rows that each rank wants; where they wrap around, those too, as rows of the grid: one list for each turn."""
    if boundary != "circular":
        return [wanted]
    rows = max(offsets[-1], 1)
    turns = range(min(b for b, _ in wanted) // rows, (max(e for _, e in wanted) - 1) // rows + 1)
    return [[(b - turn * rows, e - turn * rows) for b, e in wanted] for turn in turns]


def _wanted(a: dict[str, Any]) -> list[list[Interval]]:
    return _turns(a["offsets"], list(zip(a["begins"], a["ends"], strict=True)), a["boundary"])


def _gather_rows(a: dict[str, Any], rank: int) -> int:
    return sum(_sent(a["offsets"], wanted, rank) for wanted in _wanted(a)) * _row_bytes(a["x"], a["dim"])


def _fold_rows(a: dict[str, Any], rank: int) -> int:
    return sum(_received(a["offsets"], wanted, rank) for wanted in _wanted(a)) * _row_bytes(a["g"], a["dim"])


def _of_each(a: dict[str, Any], tensors: str, one: Callable[[dict[str, Any], int], int], rank: int) -> int:
    name = tensors[:-1]
    return sum(one(a | {name: t, "dim": dim}, rank) for t, dim in zip(a[tensors], a["dims"], strict=True))


def _windows(a: dict[str, Any], offsets: list[int], to_coarse: bool) -> list[Interval]:
    """For each rank's rows of one side of a convolution, `offsets`, the rows of the other side that meet them."""
    i = a["dim"] - 2
    span = a["dilation"][i] * (a["weight"].shape[a["dim"]] - 1)
    stride, padding = a["stride"][i], a["padding"][i]
    found = []
    for begin, end in zip(offsets[:-1], offsets[1:], strict=True):
        if begin == end:
            found.append((0, 0))
        elif to_coarse:
            found.append((-((span - begin - padding) // stride), (end - 1 + padding) // stride + 1))
        else:
            found.append((begin * stride - padding, (end - 1) * stride - padding + span + 1))
    return found


def _convolved(a: dict[str, Any], sent: Tensor, source: str, target: str, to_coarse: bool, rank: int) -> int:
    wanted = _windows(a, a[target], to_coarse)
    turns = _turns(a[source], wanted, a["row_boundary"])
    return sum(_sent(a[source], each, rank) for each in turns) * _row_bytes(sent, a["dim"])


def _convolution(a: dict[str, Any], rank: int) -> int:
    return _convolved(a, a["x"], "in_offsets", "out_offsets", a["transposed"], rank)


def _convolution_backward(a: dict[str, Any], rank: int) -> int:
    return _convolved(a, a["grad"], "out_offsets", "in_offsets", not a["transposed"], rank)


def _support(a: dict[str, Any]) -> list[Interval]:
    """For each row that interpolation makes, the rows that it is made of: in exact numbers, where kernels round."""
    source, target = a["in_offsets"][-1], max(a["out_offsets"][-1], 1)
    kind, _, variant = a["mode"].partition("-")
    corners = a["align_corners"] and kind in ("linear", "cubic")
    step = (source - 1) / max(target - 1, 1) if corners else 1 / a["scale"] if a["scale"] else source / target

    def rows(i: int) -> Interval:
        if kind == "area":
            return i * source // target, -(-(i + 1) * source // target)
        middle = (i + 0.5) * step
        if kind == "nearest":
            at = int(middle if variant == "exact" else i * step)
            return at, at + 1
        if variant == "antialias":
            reach = (2 if kind == "cubic" else 1) * max(step, 1.0)
            return int(middle - reach + 0.5), int(middle + reach + 0.5)
        at = math.floor(i * step if corners else middle - 0.5)
        return (at - 1, at + 3) if kind == "cubic" else (at, at + 2)

    within = (rows(i) for i in range(a["out_offsets"][-1]))
    return [(min(max(begin, 0), source - 1), max(min(end, source), 1)) for begin, end in within]


def _resample(a: dict[str, Any], rank: int) -> int:
    if not a["group"]:
        return 0  # of rows that are not cut
    support, out = _support(a), a["out_offsets"]
    wanted = [(support[b][0], support[e - 1][1]) if b < e else (0, 0) for b, e in itertools.pairwise(out)]
    return _sent(a["in_offsets"], wanted, rank) * _row_bytes(a["x"], a.get("dim", 2))


def _resample_adjoint(a: dict[str, Any], rank: int) -> int:
    if not a["group"]:
        return 0
    support = _support(a)
    wanted = []
    for own in itertools.pairwise(a["in_offsets"]):
        met = [i for i, rows in enumerate(support) if _common(own, rows)]
        wanted.append((met[0], met[-1] + 1) if met else (0, 0))
    return _sent(a["out_offsets"], wanted, rank) * _row_bytes(a["g"], a.get("dim", 2))


def _all_to_all(a: dict[str, Any], rank: int) -> int:
    return (sum(a["send_counts"]) - a["send_counts"][rank]) * a["parts"].element_size()


def _statistics(a: dict[str, Any], ranks: int) -> int:
    values = a["x"].shape[0] * a["num_groups"] if "num_groups" in a else a["x"].shape[1]
    return (ranks - 1) * 2 * values * 8


_BYTES: dict[str, Callable[[dict[str, Any], int], int]] = {
    "gather_rows": _gather_rows,
    "fold_rows": _fold_rows,
    "gather_rows_of_each": lambda a, rank: _of_each(a, "xs", _gather_rows, rank),
    "fold_rows_of_each": lambda a, rank: _of_each(a, "gs", _fold_rows, rank),
    "convolution": _convolution,
    "convolution_with_halo": _convolution,
    "convolution_halo": _convolution,
    "convolution_backward": _convolution_backward,
    "resample_rows": _resample,
    "resample_plane": _resample,
    "resample_rows_adjoint": _resample_adjoint,
    "resample_plane_adjoint": _resample_adjoint,
    "all_to_all": _all_to_all,
}


def bytes_sent(op: Any, args: Any, kwargs: Any, rank: int, ranks: int) -> int:
    """What `rank` would send in a call of one of graticule's ops; sums of statistics and resampling nearly."""
    name = op._schema.name.partition("::")[2]
    names = [argument.name for argument in op._schema.arguments]
    given = {argument.name: argument.default_value for argument in op._schema.arguments}
    given |= dict(zip(names, args, strict=False)) | kwargs
    if name == "all_reduce_sum_":
        size = given["x"].numel() * given["x"].element_size()
        return (ranks - 1) * size if size <= _MOST_ORDERED_BYTES else size
    if name in ("group_norm_forward", "group_norm_backward", "batch_norm_forward", "batch_norm_backward"):
        return _statistics(given, ranks)
    return _BYTES[name](given, rank) if name in _BYTES else 0
