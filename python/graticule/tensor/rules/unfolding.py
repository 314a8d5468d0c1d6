"""Tensor.unfold: sliding windows of a dimension, each with the rank that owns its first row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.support import wrapped

aten = torch.ops.aten


@rule(aten.unfold.default)
def unfold(op: Any, x: DomainTensor, dim: int, size: int, step: int) -> DomainTensor:
    """Windows along the cut dimension: the rows of one that other ranks own are fetched; a true view if none are."""
    place = wrapped(dim, x.dim())
    old = x.stride()
    strides = (*(stride * step if d == place else stride for d, stride in enumerate(old)), old[place])
    if place != x._cut.dim:
        return DomainTensor(op(x._local, place, size, step), x._cut, x._moved, strides=strides)
    rows = x.shape[place]
    if not 0 <= size <= rows or step <= 0:
        raise RuntimeError(
            f"{op}: rank {x.domain.rank}: expected windows of 0 to {rows} rows, a positive step apart, got windows of "
            f"{size} rows, {step} apart"
        )
    local, cut, moved = _interval(x._local, x._cut, x._moved)
    offsets = cut.flat().offsets
    count = (rows - size) // step + 1
    first = [*(min(count, -(-offset // step)) for offset in offsets[:-1]), count]
    pairs = list(zip(first, first[1:], strict=False))
    begins = [begin * step if begin < end else offsets[r] for r, (begin, end) in enumerate(pairs)]
    ends = [(end - 1) * step + size if begin < end else offsets[r] for r, (begin, end) in enumerate(pairs)]
    if all(end <= offsets[r + 1] for r, end in enumerate(ends)):
        rank = cut.domain.rank
        needed = local.narrow(place, begins[rank] - offsets[rank], ends[rank] - begins[rank])
    else:
        needed, moved = moves.rows(local, cut, begins, ends), True
    begin, end = pairs[cut.domain.rank]
    windows = op(needed, place, size, step) if begin < end else _no_windows(needed, place, size)
    return DomainTensor(windows, Cut(cut.domain, place, tuple(first)), moved, strides=strides)


@rule(aten.unfold_backward.default)
def unfold_backward(op: Any, grad: Any, input_sizes: Any, dim: int, size: int, step: int) -> Any:
    """Each rank sums the windows that have any of its rows: those of others are fetched."""
    if not isinstance(grad, DomainTensor):
        return NotImplemented
    sizes = list(input_sizes)
    place = wrapped(dim, len(sizes))
    local, cut = grad._local, grad._cut
    if cut.dim not in (place, len(sizes)):
        local_sizes = list(sizes)
        local_sizes[cut.dim] = cut.own_size
        return DomainTensor(op(local, local_sizes, place, size, step), cut)
    count = grad.shape[place]
    by_window = cut if cut.dim == place and cut.is_interval else Cut.balanced(cut.domain, place, count)
    local = moves.recut(local, cut, by_window)
    result = Cut.balanced(cut.domain, place, sizes[place])
    offsets = result.offsets
    begins = [min(count, max(0, (begin - size) // step + 1)) for begin in offsets[:-1]]
    ends = [max(begin, min(count, (end - 1) // step + 1)) for begin, end in zip(begins, offsets[1:], strict=True)]
    local = moves.rows(local, by_window, begins, ends)
    sizes[place] = result.own
    own = local.new_zeros(sizes)
    first, last = begins[cut.domain.rank], ends[cut.domain.rank]
    if first < last and own.numel():
        sizes[place] = (last - 1 - first) * step + size
        covered = op(local, sizes, place, size, step)
        begin, end = max(first * step, result.begin), min(first * step + sizes[place], result.begin + result.own)
        if begin < end:
            own.narrow(place, begin - result.begin, end - begin).copy_(
                covered.narrow(place, begin - first * step, end - begin)
            )
    return DomainTensor(own, result)


def _interval(local: Tensor, cut: Cut, moved: bool) -> tuple[Tensor, Cut, bool]:
    if cut.is_interval:
        return local, cut, moved
    balanced = Cut.balanced(cut.domain, cut.dim, cut.size)
    return moves.recut(local, cut, balanced), balanced, True


def _no_windows(t: Tensor, dim: int, size: int) -> Tensor:
    sizes = list(t.shape)
    sizes[dim] = 0
    return t.new_empty([*sizes, size])
