"""Largest and smallest values, and where they are: indices are those of the whole grid, ties go as without a cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import of_ranks_with_rows, reduced_shape
from graticule.tensor.rules.support import after_reduction, reduced_dimensions, wrapped

aten = torch.ops.aten


@rule(aten.amax.default, aten.amin.default)
def extreme(op: Any, x: DomainTensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The extreme of the ranks' extremes; not a number where one of them is."""
    if x.numel() == 0:
        return NotImplemented
    dims = reduced_dimensions(dim, x.dim())
    _refuse_complex(op, x)
    if x._cut.dim not in dims:
        return DomainTensor(op(x._local, dims, keepdim), after_reduction(x._cut, dims, keepdim))
    return op(of_ranks_with_rows(_part(op, x, dims, keepdim), x._cut), [0])


@rule(aten.max.default, aten.min.default)
def extreme_of_all(op: Any, x: DomainTensor) -> Tensor:
    """The extreme of all values."""
    return extreme(aten.amax.default if op is aten.max.default else aten.amin.default, x)


@rule(aten.aminmax.default)
def both_extremes(op: Any, x: DomainTensor, *, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest and the largest, in one collective."""
    if x.numel() == 0:
        return NotImplemented
    dims = reduced_dimensions(dim, x.dim())
    _refuse_complex(op, x)
    low, high = aten.amin.default, aten.amax.default
    if x._cut.dim not in dims:
        return tuple(extreme(one, x, dims, keepdim) for one in (low, high))
    parts = [_part(one, x, dims, keepdim) for one in (low, high)]
    both = of_ranks_with_rows(torch.stack(parts), x._cut)
    return low(both[:, 0], [0]), high(both[:, 1], [0])


@rule(aten.max.dim, aten.min.dim)
def extreme_with_index(op: Any, x: DomainTensor, dim: int, keepdim: bool = False) -> Any:
    """Values and indices along one dimension."""
    if x.numel() == 0:
        return NotImplemented
    dim = wrapped(dim, x.dim())
    _refuse_complex(op, x)
    if x._cut.dim != dim:
        cut = after_reduction(x._cut, [dim], keepdim)
        return tuple(DomainTensor(part, cut) for part in op(x._local, dim, keepdim))
    if x._cut.own == 0:
        value, index = _nothing(x._local, [dim], keepdim)
    else:
        value, index = op(x._local, dim, keepdim)
        index = global_index(x._cut, index)
    return _best(op is aten.max.dim, value, index, x._cut)


@rule(aten.argmax.default, aten.argmin.default)
def index_of_extreme(op: Any, x: DomainTensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Indices along one dimension, or in the flattened whole."""
    if x.numel() == 0 or x.dtype == torch.bool or x.is_complex():
        return NotImplemented
    dims = reduced_dimensions(dim, x.dim())
    if x._cut.dim not in dims:
        return DomainTensor(op(x._local, dim, keepdim), after_reduction(x._cut, dims, keepdim))
    if x._local.numel() == 0:
        value, index = _nothing(x._local, dims, keepdim)
    else:
        index = op(x._local, dim, keepdim)
        if dim is None:
            value = x._local.reshape(-1)[index.reshape(-1)].view(index.shape)
            index = _flat_index(x, index)
        else:
            place = index if keepdim else index.unsqueeze(dim)
            value = x._local.gather(dim, place).view(index.shape)
            index = global_index(x._cut, index)
    return _best(op is aten.argmax.default, value, index, x._cut)[1]


def global_index(cut: Cut, index: Tensor) -> Tensor:
    """The index in the whole dimension of an index in this rank's part of it."""
    own = cut.own * cut.inner
    outer = index.div(own, rounding_mode="floor")
    return index + outer * (cut.rows * cut.inner - own) + cut.begin * cut.inner


def _flat_index(x: DomainTensor, index: Tensor) -> Tensor:
    cut, after = x._cut, 1
    for d in range(cut.dim + 1, x.dim()):
        after *= x.shape[d]
    row = index.div(after, rounding_mode="floor")
    before = row.div(cut.own_size, rounding_mode="floor")
    return (before * cut.size + global_index(cut, row % cut.own_size)) * after + index % after


def _refuse_complex(op: Any, x: DomainTensor) -> None:
    if x.is_complex():
        # A rank without rows would not notice.
        raise NotImplementedError(f"{op}: not implemented for {x.dtype}: complex numbers have no order")


def _part(op: Any, x: DomainTensor, dims: Sequence[int], keepdim: bool) -> Tensor:
    if x._cut.own == 0:
        return x._local.new_zeros(reduced_shape(x._local.shape, dims, keepdim))
    return op(x._local, dims, keepdim)


def _nothing(local: Tensor, dims: Sequence[int], keepdim: bool) -> tuple[Tensor, Tensor]:
    shape = reduced_shape(local.shape, dims, keepdim)
    return local.new_zeros(shape), local.new_zeros(shape, dtype=torch.int64)


def _best(largest: bool, value: Tensor, index: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Of the ranks' values the extreme, and of those that equal it the one with the lowest index."""
    carrier = torch.float64 if value.is_floating_point() else torch.int64
    parts = of_ranks_with_rows(torch.stack([value.to(carrier), index.to(carrier)]), cut)
    values, indices = parts[:, 0], parts[:, 1].to(torch.int64)
    best = values.amax(0) if largest else values.amin(0)
    holds = (values == best) | (values.isnan() & best.isnan())
    lowest = indices.masked_fill(~holds, torch.iinfo(torch.int64).max).amin(0)
    return best.to(value.dtype), lowest
