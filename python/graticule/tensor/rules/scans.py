"""Cumulative ops along the cut dimension: each rank's own, then what the ranks before it came to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import of_all_ranks, wide
from graticule.tensor.rules.result_cuts import with_interval
from graticule.tensor.rules.support import wrapped

aten = torch.ops.aten

# How two successive stretches come together, and what an empty one comes to.
_JOINED: dict[Any, tuple[Any, float]] = {
    aten.cumsum.default: (torch.add, 0.0),
    aten.cumprod.default: (torch.mul, 1.0),
    aten.logcumsumexp.default: (torch.logaddexp, -torch.inf),
}


@rule(aten.cumsum.default, aten.cumprod.default, aten.logcumsumexp.default)
def scan(op: Any, x: DomainTensor, dim: int, **options: Any) -> Tensor:
    """Sums, products, and sums of exponentials; one collective."""
    if wrapped(dim, x.dim()) != x._cut.dim:
        return DomainTensor(op(x._local, dim, **options), x._cut)
    if op is aten.logcumsumexp.default and x.is_complex():
        return NotImplemented
    x = with_interval(x)
    cut = x._cut
    join, nothing = _JOINED[op]
    asked = options.get("dtype")
    local = x._local if asked is None else x._local.to(asked)
    result = op(local.to(wide(local.dtype)), dim)
    ends = of_all_ranks(_last(result, cut, nothing), cut.domain)
    before = torch.full_like(ends[0], nothing)
    for end in ends[: cut.domain.rank]:
        before = join(before, end)
    if cut.domain.rank > 0:
        result = join(before, result)
    final = asked or (x.dtype if x.is_floating_point() else result.dtype)
    return DomainTensor(result.to(final), cut)


def _last(local: Tensor, cut: Cut, nothing: float) -> Tensor:
    if cut.own == 0:
        shape = list(local.shape)
        shape[cut.dim] = 1
        return local.new_full(shape, nothing)
    return local.narrow(cut.dim, local.shape[cut.dim] - 1, 1)


@rule(aten.cummax.default, aten.cummin.default)
def extremes_so_far(op: Any, x: DomainTensor, dim: int) -> Any:
    """Values and indices; of equal ones the last, and once not a number, always."""
    if wrapped(dim, x.dim()) != x._cut.dim:
        return tuple(DomainTensor(part, x._cut) for part in op(x._local, dim))
    if x.dtype == torch.bool or x.is_complex():
        return NotImplemented
    x = with_interval(x)
    cut = x._cut
    values, indices = op(x._local, dim)
    indices = indices + cut.begin * cut.inner
    carrier = torch.float64 if values.is_floating_point() else torch.int64
    last = torch.stack([_last(part.to(carrier), cut, 0) for part in (values, indices)])
    ends = of_all_ranks(last, cut.domain)
    earlier = [rank for rank in range(cut.domain.rank) if cut.offsets[rank + 1] > cut.offsets[rank]]
    for rank in reversed(earlier):
        value, index = ends[rank, 0].to(values.dtype), ends[rank, 1].to(torch.int64)
        reached = values >= value if op is aten.cummax.default else values <= value
        own = values.isnan() | ~value.isnan() & reached
        values, indices = torch.where(own, values, value), torch.where(own, indices, index)
    return DomainTensor(values, cut), DomainTensor(indices, cut)
