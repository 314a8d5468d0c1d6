"""Sums, products and logical reductions: each rank's own rows, then over the ranks.

A reduction over the cut dimension is a plain tensor, the same bits on every rank; one over others is cut like x.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import of_all_ranks, wide
from graticule.tensor.rules.support import after_reduction, reduced_dimensions

aten = torch.ops.aten


@rule(aten.sum.default, aten.sum.dim_IntList, aten.nansum.default)
def sums(op: Any, x: DomainTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sums; those of half precision are rounded once, after the ranks' have been added."""
    part_of = aten.nansum.default if op is aten.nansum.default else aten.sum.dim_IntList
    dims = reduced_dimensions(dim, x.dim())
    if x._cut.dim not in dims:
        return DomainTensor(part_of(x._local, dims, keepdim, dtype=dtype), after_reduction(x._cut, dims, keepdim))
    asked = dtype or x.dtype
    floating = asked.is_floating_point or asked.is_complex
    part = part_of(x._local, dims, keepdim, dtype=wide(asked) if floating else dtype)
    total = moves.reduce_sum(part, x.domain)
    return total.to(asked) if floating else total


@rule(aten.mean.default, aten.mean.dim)
def mean(op: Any, x: DomainTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum over all ranks' rows divided by their number."""
    dims = reduced_dimensions(dim, x.dim())
    asked = dtype or x.dtype
    if x._cut.dim not in dims or not (asked.is_floating_point or asked.is_complex):
        part = aten.mean.dim(x._local, dims, keepdim, dtype=dtype)
        return DomainTensor(part, after_reduction(x._cut, dims, keepdim))
    part = aten.sum.dim_IntList(x._local, dims, keepdim, dtype=wide(asked))
    count = prod(x.shape[d] for d in dims)
    return moves.reduce_sum(part, x.domain).div_(count).to(asked)


@rule(aten.prod.default, aten.prod.dim_int)
def products(op: Any, x: DomainTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The product of the ranks' products."""
    dims = reduced_dimensions(dim, x.dim())
    if x._cut.dim not in dims:
        return DomainTensor(op(x._local, dim, keepdim, dtype=dtype), after_reduction(x._cut, dims, keepdim))
    asked = dtype or x.dtype
    floating = asked.is_floating_point or asked.is_complex
    inner = wide(asked) if floating else dtype
    if op is aten.prod.default:
        part = op(x._local, dtype=inner)
    else:
        part = op(x._local, dim, keepdim, dtype=inner)
    result = aten.prod.dim_int(of_all_ranks(part, x.domain), 0, dtype=part.dtype)
    return result.to(asked) if floating else result


@rule(aten.any.default, aten.any.dim, aten.any.dims, aten.all.default, aten.all.dim, aten.all.dims)
def logical(op: Any, x: DomainTensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether any, or all, of the ranks' values are true."""
    if op in (aten.any.dims, aten.all.dims) and dim is not None and len(dim) == 0:
        return NotImplemented
    dims = reduced_dimensions(dim, x.dim())
    part = op(x._local) if op in (aten.any.default, aten.all.default) else op(x._local, dim, keepdim)
    if x._cut.dim not in dims:
        return DomainTensor(part, after_reduction(x._cut, dims, keepdim))
    over_ranks = aten.any.dim if op in (aten.any.default, aten.any.dim, aten.any.dims) else aten.all.dim
    return over_ranks(of_all_ranks(part, x.domain), 0)


@rule(aten._is_any_true.default, aten._is_all_true.default)
def truths(op: Any, x: DomainTensor) -> Tensor:
    """Whether any, or all, of the ranks' truth values are true: what anomaly detection and torch.distributions ask."""
    return op(of_all_ranks(op(x._local), x.domain))


@rule(aten.count_nonzero.default, aten.count_nonzero.dim_IntList)
def count_nonzero(op: Any, x: DomainTensor, dim: Any = None) -> Tensor:
    """How many values are not zero."""
    dims = reduced_dimensions(dim, x.dim())
    part = aten.count_nonzero.dim_IntList(x._local, dims)
    if x._cut.dim in dims:
        return moves.reduce_sum(part, x.domain)
    return DomainTensor(part, after_reduction(x._cut, dims, False))
