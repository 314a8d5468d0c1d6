"""Views that order dimensions otherwise, add or remove some, or repeat one row: the rank's own rows alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.reshape import reshape
from graticule.tensor.rules.support import reduced_dimensions, wrapped

aten = torch.ops.aten


@rule(aten.permute.default)
def permute(op: Any, x: DomainTensor, dims: Sequence[int]) -> DomainTensor:
    """The cut goes where its dimension goes."""
    local = x._local.permute(tuple(dims))
    ndim = local.dim()
    order = [wrapped(dim, ndim) for dim in dims]
    strides = x.stride()
    cut = x._cut.at(order.index(x._cut.dim))
    return DomainTensor(local, cut, x._moved, strides=tuple(strides[dim] for dim in order))


@rule(aten.transpose.int)
def transpose(op: Any, x: DomainTensor, dim0: int, dim1: int) -> DomainTensor:
    """As permute."""
    local = x._local.transpose(dim0, dim1)
    ndim = local.dim()
    order = list(range(ndim))
    order[wrapped(dim0, ndim)], order[wrapped(dim1, ndim)] = wrapped(dim1, ndim), wrapped(dim0, ndim)
    return permute(op, x, order)


@rule(aten.t.default)
def t(op: Any, x: DomainTensor) -> DomainTensor:
    """As transpose."""
    x._local.t()
    return permute(op, x, list(reversed(range(x.dim()))))


@rule(aten.unsqueeze.default)
def unsqueeze(op: Any, x: DomainTensor, dim: int) -> DomainTensor:
    """The cut dimension keeps its rows."""
    local = x._local.unsqueeze(dim)
    place = dim % local.dim()
    strides = list(x.stride())
    strides.insert(place, strides[place] * x.shape[place] if place < x.dim() else 1)
    cut = x._cut
    return DomainTensor(local, cut.at(cut.dim + (place <= cut.dim)), x._moved, strides=tuple(strides))


@rule(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(op: Any, x: DomainTensor, dim: Any = None) -> Tensor:
    """By global sizes, whatever the rank's own. A cut dimension of one row passes its cut on to a neighbour."""
    if dim is not None:
        x._local.squeeze(dim)  # Says what is wrong with dim.
    named = range(x.dim()) if dim is None else reduced_dimensions(dim, x.dim()) if dim != [] and dim != () else []
    removed = [d for d in named if x.shape[d] == 1]
    kept = [d for d in range(x.dim()) if d not in removed]
    cut = x._cut
    if cut.dim in removed:
        return reshape(x, [x.shape[d] for d in kept])
    strides = x.stride()
    local = x._local.squeeze(removed) if removed else x._local.view_as(x._local)
    return DomainTensor(local, cut.at(kept.index(cut.dim)), x._moved, strides=tuple(strides[d] for d in kept))


@rule(aten.expand.default)
def expand(op: Any, x: DomainTensor, size: Sequence[int], *, implicit: bool = False) -> DomainTensor:
    """Repeats of the rank's own rows; where one row becomes several, of which each rank has its own, it is sent."""
    added = len(size) - x.dim()
    dim = x._cut.dim + added
    local_size = list(size)
    if added < 0 or size[dim] in (-1, x._cut.size):
        local, cut, moved = x._local, x._cut.at(dim), x._moved
        if added >= 0:
            local_size[dim] = -1
    elif x._cut.size == 1 and size[dim] >= 0:
        local, cut, moved = moves.replicate(x._local, x._cut), Cut.balanced(x.domain, dim, size[dim]), True
        local_size[dim] = cut.own
    else:
        raise RuntimeError(
            f"{op}: rank {x.domain.rank}: expected a size of {x._cut.size} for dimension {dim}, got {size[dim]}: only "
            "a dimension of size 1 can be expanded"
        )
    repeated = local.expand(local_size, implicit=implicit)
    old = x.stride()
    strides = tuple(
        0 if d < added or (x.shape[d - added] == 1 and size[d] not in (-1, 1)) else old[d - added]
        for d in range(len(size))
    )
    return DomainTensor(repeated, cut, moved, strides=strides)
