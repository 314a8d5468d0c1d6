"""Sorting and choosing by order along dimensions that are not cut; along the cut one they are gathered."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor import functions, report
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.support import after_reduction, whole

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
    if x.dim() == 0 or dim % x.dim() == x._cut.dim:
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
    if dim % x.dim() == x._cut.dim or x.numel() == 0:
        return NotImplemented
    cut = after_reduction(x._cut, [dim % x.dim()], keepdim)
    return tuple(DomainTensor(part, cut) for part in op(x._local, *before, dim, keepdim))


def _quantiles(func: Any) -> Any:
    """What runs in place of quantile and nanquantile: torch's own squeezes a result in place, which cannot be here."""

    def run(x: Any, q: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        if not isinstance(x, DomainTensor):
            return func(x, whole(q), dim, keepdim, **options)
        if dim is None or dim % x.dim() == x._cut.dim or "out" in options:
            report.refuse_gather(func.__name__)
            return func(functions.gather(x), q, dim, keepdim, **options)
        cut, local = x._cut, functions.to_local(x)
        if cut.own == 0:
            # torch's own refuses a tensor without values; the row that stands in for them goes again below.
            local = torch.cat(
                [local, local.new_zeros([1 if d == cut.dim else s for d, s in enumerate(local.shape)])], cut.dim
            )
        value = func(local, q, dim, keepdim, **options)
        place = cut.dim + value.dim() - x.dim()
        if not keepdim:
            place += dim % x.dim() > cut.dim
        return functions.from_local(value.narrow(place, 0, cut.own_size), cut.at(place))

    return run


for _func in (torch.quantile, torch.nanquantile):
    functions.replaced[_func] = functions.replaced[getattr(torch.Tensor, _func.__name__)] = _quantiles(_func)
