"""Joining tensors, along the cut dimension or another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut, balanced_offsets
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.result_cuts import kept_or_balanced, largest, largest_share, raise_as_torch

aten = torch.ops.aten


@rule(aten.cat.default)
def cat(op: Any, tensors: Any, dim: int = 0) -> DomainTensor:
    """Along the cut dimension rows stay where they are where that can be; other arguments are cut like the largest."""
    ndim = max(t.dim() for t in tensors)
    if not -ndim <= dim < ndim:
        raise_as_torch(op, list(tensors), dim)
    dim %= ndim
    # Torch takes a tensor of no values and one dimension for no rows of any shape.
    joined = [t for t in tensors if t.dim() == ndim and (t.dim() > 1 or t.shape[0] > 0)] or list(tensors)
    others = {tuple(size for d, size in enumerate(t.shape) if d != dim) for t in joined}
    if len(others) > 1 or any(t.dim() != ndim and tuple(t.shape) != (0,) for t in tensors):
        raise_as_torch(op, list(tensors), dim)
    like = [t for t in joined if isinstance(t, DomainTensor)]
    if not like:
        return op([_plain(t) for t in tensors], dim)
    cut = largest(like)._cut
    if cut.dim != dim:
        return DomainTensor(op([own_part(t, cut, ndim) if t.dim() == ndim else _plain(t) for t in tensors], dim), cut)
    cut = _cut_of_joined(joined, dim, largest(like))
    begin = 0
    parts = []
    for t in tensors:
        if not any(t is other for other in joined):
            parts.append(_plain(t))
            continue
        rows = t.shape[dim]
        own = Cut(cut.domain, dim, tuple(min(max(offset - begin, 0), rows) for offset in cut.offsets))
        parts.append(moves.recut(t._local, t._cut, own) if isinstance(t, DomainTensor) else own.part_of(t))
        begin += rows
    return DomainTensor(op(parts, dim), cut)


def _plain(t: Tensor) -> Tensor:
    """A tensor of no values: for its type."""
    return t._local if isinstance(t, DomainTensor) else t


def _cut_of_joined(tensors: list[Tensor], dim: int, most: DomainTensor) -> Cut:
    """The cut nearest to balance of those that leave all rows with their ranks; else the largest's, widened."""
    domain = most.domain
    rows = sum(t.shape[dim] for t in tensors)
    least, greatest = [0] * (domain.size + 1), [rows] * (domain.size + 1)
    begin = 0
    usual = 0
    place = 0
    for t in tensors:
        size = t.shape[dim]
        if t is most:
            place = begin
        if isinstance(t, DomainTensor) and t._cut.dim == dim and t._cut.is_interval and size:
            offsets = t._cut.flat().offsets
            usual += largest_share(offsets)
            for rank in range(1, domain.size):
                if offsets[rank] > 0:
                    least[rank] = max(least[rank], begin + offsets[rank])
                if offsets[rank] < size:
                    greatest[rank] = min(greatest[rank], begin + offsets[rank])
        begin += size
    wished = balanced_offsets(rows, domain.size)
    if all(low <= high for low, high in zip(least, greatest, strict=True)):
        staying = tuple(min(max(wish, low), high) for wish, low, high in zip(wished, least, greatest, strict=True))
        if len(tensors) == 1 or kept_or_balanced(domain, dim, staying, usual).offsets == staying:
            return Cut(domain, dim, staying)
    if not most._cut.is_interval:
        return Cut.balanced(domain, dim, rows)
    offsets = most._cut.flat().offsets
    ends = [0 if o == 0 else rows if o == offsets[-1] else place + o for o in offsets[1:-1]]
    return kept_or_balanced(domain, dim, (0, *ends, rows), largest_share(offsets))


@rule(aten.stack.default)
def stack(op: Any, tensors: Any, dim: int = 0) -> DomainTensor:
    """All cut like the largest; the new dimension is not cut."""
    ndim = tensors[0].dim()
    if len({tuple(t.shape) for t in tensors}) > 1 or not -ndim - 1 <= dim <= ndim:
        raise_as_torch(op, list(tensors), dim)
    dim %= ndim + 1
    cut = largest(tensors)._cut
    parts = [own_part(t, cut, ndim) for t in tensors]
    return DomainTensor(op(parts, dim), cut.at(cut.dim + (dim <= cut.dim)))
