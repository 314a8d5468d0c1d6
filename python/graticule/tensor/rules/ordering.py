"""Sorting and choosing by order along dimensions that are not cut; along the cut one they are gathered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.domain import Domain
from graticule.tensor import functions, moves, report
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.support import after_reduction, wrapped

aten = torch.ops.aten


@rule(aten.sort.default, aten.topk.default)
def sort(op: Any, x: DomainTensor, *args: Any, **kwargs: Any) -> Any:
    """Values and indices of the same rows."""
    dim = kwargs.get("dim", -1)
    places = {"sort": 0, "topk": 1}[op._schema.name.rpartition("::")[2]]
    if len(args) > places:
        dim = args[places]
    return _same_rows(op, x, dim, args, kwargs)


@rule(aten.sort.stable)
def stable_sort(op: Any, x: DomainTensor, *, dim: int = -1, **kwargs: Any) -> Any:
    """Values and indices of the same rows."""
    return _same_rows(op, x, dim, (), {"dim": dim, **kwargs})


def _same_rows(op: Any, x: DomainTensor, dim: int, args: Any, kwargs: Any) -> Any:
    if x.dim() == 0 or wrapped(dim, x.dim()) == x._cut.dim:
        return NotImplemented
    return tuple(DomainTensor(part, x._cut) for part in op(x._local, *args, **kwargs))


@rule(aten.median.dim, aten.nanmedian.dim)
def median(op: Any, x: DomainTensor, dim: int, keepdim: bool = False) -> Any:
    """Value and index of each row."""
    return _one_each(op, x, dim, keepdim)


@rule(aten.kthvalue.default)
def kth_value(op: Any, x: DomainTensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """Value and index of each row."""
    return _one_each(op, x, dim, keepdim, k)


@rule(aten.mode.default)
def mode(op: Any, x: DomainTensor, dim: int = -1, keepdim: bool = False) -> Any:
    """Value and index of each row."""
    return _one_each(op, x, dim, keepdim)


def _one_each(op: Any, x: DomainTensor, dim: int, keepdim: bool, *before: Any) -> Any:
    if wrapped(dim, x.dim()) == x._cut.dim or x.numel() == 0:
        return NotImplemented
    cut = after_reduction(x._cut, [wrapped(dim, x.dim())], keepdim)
    return tuple(DomainTensor(part, cut) for part in op(x._local, *before, dim, keepdim))


class _UsedByRows(functions.EagerFunction):
    """A plain value that each rank's rows take part with: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, domain: Domain) -> Tensor:
        ctx.domain = domain
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return moves.reduce_sum(gradient.clone(), ctx.domain), None


def _quantiles(func: Any) -> Any:
    """What runs in place of quantile and nanquantile: torch's own squeezes a result in place, which cannot be here."""

    def run(input: Any, q: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        x, q = input, functions.gather(q) if isinstance(q, DomainTensor) else q
        if not isinstance(x, DomainTensor):
            return func(x, q, dim, keepdim, **options)
        if dim is None or wrapped(dim, x.dim()) == x._cut.dim or "out" in options:
            report.refuse_gather(func.__name__)
            return func(functions.gather(x), q, dim, keepdim, **options)
        cut, local = x._cut, functions.to_local(x)
        if isinstance(q, Tensor) and q.requires_grad:
            q = _UsedByRows.apply(q, cut.domain)
        if cut.own == 0:
            # torch's own refuses a tensor without values; the row that stands in for them goes again below.
            local = torch.cat(
                [local, local.new_zeros([1 if d == cut.dim else s for d, s in enumerate(local.shape)])], cut.dim
            )
        value = func(local, q, dim, keepdim, **options)
        place = cut.dim + value.dim() - x.dim()
        if not keepdim:
            place += wrapped(dim, x.dim()) > cut.dim
        return functions.from_local(value.narrow(place, 0, cut.own_size), cut.at(place))

    return run


for _func in (torch.quantile, torch.nanquantile):
    functions.replaced[_func] = functions.replaced[getattr(torch.Tensor, _func.__name__)] = _quantiles(_func)
