"""Slices: true views of each rank's own rows, without messages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.exchange import wrapped_dimension
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import pointwise
from graticule.tensor.rules.result_cuts import (
    own_slice,
    raise_as_torch,
    sliced_offsets,
    whole_of_slice,
    with_interval,
)

aten = torch.ops.aten


def _bounds(size: int, start: int | None, end: int | None, step: int) -> tuple[int, int]:
    """First row and number of rows of a slice."""
    first, last, _ = slice(start, end, step).indices(size)
    return first, max(0, -((first - last) // step))


@rule(aten.slice.Tensor)
def slice_(
    op: Any, x: DomainTensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> DomainTensor:
    """Along the cut dimension each rank keeps its own rows of the slice."""
    dim = wrapped_dimension(dim, x, "slice")
    if step < 1:
        raise_as_torch(op, x, dim, start, end, step)
    strides = list(x.stride())
    strides[dim] *= step
    first, count = _bounds(x.shape[dim], start, end, step)
    if dim != x._cut.dim or count == x.shape[dim]:
        return DomainTensor(op(x._local, dim, start, end, step), x._cut, x._moved, strides=tuple(strides))
    x = with_interval(x)
    cut = Cut(x.domain, dim, sliced_offsets(x._cut.offsets, first, step, count))
    begin, end = own_slice(x._cut, cut, first, step)
    return DomainTensor(op(x._local, dim, begin, end, step), cut, x._moved, strides=tuple(strides))


@rule(aten.slice_backward.default)
def slice_backward(
    op: Any, grad: DomainTensor, input_sizes: Any, dim: int, start: int, end: int, step: int
) -> DomainTensor:
    """The gradient in its place among zeros, cut so that its rows stay where they are."""
    sizes = list(input_sizes)
    dim %= len(sizes)
    if dim != grad._cut.dim:
        sizes[grad._cut.dim] = grad._cut.own_size
        return DomainTensor(op(grad._local, sizes, dim, start, end, step), grad._cut)
    grad = with_interval(grad)
    first, _ = _bounds(sizes[dim], start, end, step)
    cut = whole_of_slice(grad._cut, sizes[dim], first, step)
    sizes[dim] = cut.own
    begin, end = own_slice(cut, grad._cut, first, step)
    return DomainTensor(op(grad._local, sizes, dim, begin, end, step), cut)


@rule(aten.slice_scatter.default)
def slice_scatter(
    op: Any,
    x: Tensor,
    src: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> DomainTensor:
    """A copy of x with src written into a slice."""
    dim = wrapped_dimension(dim, x, "slice_scatter")
    first, count = _bounds(x.shape[dim], start, end, step)
    expected = list(x.shape)
    expected[dim] = count
    if list(src.shape) != expected:
        raise_as_torch(op, x, src, dim, start, end, step)
    if isinstance(x, DomainTensor) and x._cut.dim == dim and not x._cut.is_interval:
        return NotImplemented  # its slices are copies
    if isinstance(x, DomainTensor):
        result = DomainTensor(x._local.clone(), x._cut)
    else:
        assert isinstance(src, DomainTensor)
        cut = src._cut
        if cut.dim == dim:
            src = with_interval(src)
            cut = whole_of_slice(src._cut, x.shape[dim], first, step)
        result = DomainTensor(cut.part_of(x).clone(), cut)
    pointwise(aten.copy_.default, slice_(aten.slice.Tensor, result, dim, start, end, step), src)
    return result


@rule(aten.split.Tensor, aten.unsafe_split.Tensor)
def split(op: Any, x: DomainTensor, split_size: int, dim: int = 0) -> list[DomainTensor]:
    """Slices."""
    dim = wrapped_dimension(dim, x, "split")
    size = x.shape[dim]
    if split_size < 0 or split_size == 0 and size:
        raise_as_torch(op, x, split_size, dim)
    begins = range(0, size, split_size) if size else [0]
    return [slice_(aten.slice.Tensor, x, dim, begin, begin + split_size) for begin in begins]


@rule(aten.split_with_sizes.default, aten.unsafe_split_with_sizes.default)
def split_with_sizes(op: Any, x: DomainTensor, split_sizes: Any, dim: int = 0) -> list[DomainTensor]:
    """Slices."""
    dim = wrapped_dimension(dim, x, "split_with_sizes")
    if min(split_sizes, default=0) < 0 or sum(split_sizes) != x.shape[dim]:
        raise_as_torch(op, x, split_sizes, dim)
    result, begin = [], 0
    for size in split_sizes:
        result.append(slice_(aten.slice.Tensor, x, dim, begin, begin + size))
        begin += size
    return result
