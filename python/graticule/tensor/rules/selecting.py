"""Single rows: those along the cut dimension come to every rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.exchange import wrapped_dimension
from graticule.tensor import moves, report
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.result_cuts import raise_as_torch
from graticule.tensor.rules.slicing import slice_, slice_scatter

aten = torch.ops.aten


@rule(aten.select.int)
def select(op: Any, x: DomainTensor, dim: int, index: int) -> Tensor:
    """A row of the cut dimension is a plain tensor, sent by its owner; of others, one cut like x."""
    dim = wrapped_dimension(dim, x, "select")
    if not -x.shape[dim] <= index < x.shape[dim]:
        raise_as_torch(op, x, dim, index)
    index %= x.shape[dim]
    cut = x._cut
    if dim == cut.dim:
        row = slice_(aten.slice.Tensor, x, dim, index, index + 1)
        return moves.replicate(row._local, row._cut).select(dim, 0)
    strides = x.stride()
    strides = strides[:dim] + strides[dim + 1 :]
    return DomainTensor(op(x._local, dim, index), cut.at(cut.dim - (dim < cut.dim)), x._moved, strides=strides)


@rule(aten.select_backward.default)
def select_backward(op: Any, grad: DomainTensor, input_sizes: Any, dim: int, index: int) -> DomainTensor:
    """The gradient in its place among zeros, cut like the gradient."""
    sizes = list(input_sizes)
    dim %= len(sizes)
    cut = grad._cut.at(grad._cut.dim + (dim <= grad._cut.dim))
    sizes[cut.dim] = cut.own_size
    return DomainTensor(op(grad._local, sizes, dim, index), cut)


@rule(aten.select_scatter.default)
def select_scatter(op: Any, x: Tensor, src: Tensor, dim: int, index: int) -> DomainTensor:
    """A copy of x with src written into a row."""
    dim = wrapped_dimension(dim, x, "select_scatter")
    expected = list(x.shape)
    size = expected.pop(dim)
    if not -size <= index < size or list(src.shape) != expected:
        raise_as_torch(op, x, src, dim, index)
    index %= size
    return slice_scatter(aten.slice_scatter.default, x, aten.unsqueeze.default(src, dim), dim, index, index + 1)


@rule(aten.unbind.int)
def unbind(op: Any, x: DomainTensor, dim: int = 0) -> list[Tensor]:
    """All rows: those of the cut dimension are all of x, on every rank."""
    dim = wrapped_dimension(dim, x, "unbind")
    cut = x._cut
    if dim == cut.dim:
        report.refuse_gather(op)
        return list(op(moves.gather(x._local, cut), dim))
    strides = x.stride()
    strides = strides[:dim] + strides[dim + 1 :]
    at = cut.at(cut.dim - (dim < cut.dim))
    return [DomainTensor(row, at, x._moved, strides=strides) for row in op(x._local, dim)]
