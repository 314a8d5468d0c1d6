"""Diagonals: true views of each rank's own rows, without messages."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import pointwise
from graticule.tensor.rules.result_cuts import raise_as_torch, sliced_offsets, whole_of_slice, with_interval
from graticule.tensor.rules.support import wrapped

aten = torch.ops.aten


def _interval(sizes: Any, offset: int, dim1: int, dim2: int, dim: int) -> tuple[int, int]:
    """First index along `dim`, one of the two, that the diagonal has, and how many."""
    other, shift = (dim2, offset) if dim == dim1 else (dim1, -offset)
    first = max(0, -shift)
    return first, max(0, min(sizes[dim], sizes[other] - shift) - first)


def _own_offset(offset: int, dim1: int, cut: Cut) -> int:
    """Of the diagonal of the whole in this rank's rows."""
    return offset + cut.begin if cut.dim == dim1 else offset - cut.begin


@rule(aten.diagonal.default)
def diagonal(op: Any, x: DomainTensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """Where a dimension of the diagonal is cut, each rank has the part that goes through its rows."""
    taken = dim1, dim2 = wrapped(dim1, x.dim()), wrapped(dim2, x.dim())
    if dim1 == dim2:
        raise_as_torch(op, x, offset, dim1, dim2)
    strides = x.stride()
    kept = tuple(strides[d] for d in range(x.dim()) if d not in taken)
    result_strides = (*kept, strides[dim1] + strides[dim2])
    if x._cut.dim not in taken:
        cut = x._cut.at(x._cut.dim - sum(d < x._cut.dim for d in taken))
        return DomainTensor(op(x._local, offset, dim1, dim2), cut, x._moved, strides=result_strides)
    x = with_interval(x)
    first, count = _interval(x.shape, offset, dim1, dim2, x._cut.dim)
    cut = Cut(x.domain, x.dim() - 2, sliced_offsets(x._cut.offsets, first, 1, count))
    local = op(x._local, _own_offset(offset, dim1, x._cut), dim1, dim2)
    return DomainTensor(local, cut, x._moved, strides=result_strides)


@rule(aten.diagonal_backward.default)
def diagonal_backward(op: Any, grad: Any, input_sizes: Any, offset: int, dim1: int, dim2: int) -> Any:
    """The gradient among zeros, cut so that its values stay where they are."""
    if not isinstance(grad, DomainTensor):
        return NotImplemented
    sizes = list(input_sizes)
    dim1, dim2 = wrapped(dim1, len(sizes)), wrapped(dim2, len(sizes))
    if grad._cut.dim == grad.dim() - 1:
        grad = with_interval(grad)
        first, _ = _interval(sizes, offset, dim1, dim2, dim1)
        cut = whole_of_slice(grad._cut.at(dim1), sizes[dim1], first, 1)
        offset = _own_offset(offset, dim1, cut)
    else:
        cut = grad._cut.at([d for d in range(len(sizes)) if d not in (dim1, dim2)][grad._cut.dim])
    sizes[cut.dim] = cut.own_size
    return DomainTensor(op(grad._local, sizes, offset, dim1, dim2), cut)


@rule(aten.diagonal_scatter.default)
def diagonal_scatter(op: Any, x: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """A copy of x with src written into its diagonal."""
    if not isinstance(x, DomainTensor):
        return NotImplemented
    x = with_interval(x)
    result = DomainTensor(x._local.clone(), x._cut)
    place = diagonal(aten.diagonal.default, result, offset, dim1, dim2)
    if src.shape != place.shape:
        raise_as_torch(op, x, src, offset, dim1, dim2)
    pointwise(aten.copy_.default, place, src)
    return result
