"""Vector norms of any order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import of_ranks_with_rows, reduced_shape, wide
from graticule.tensor.rules.support import after_reduction, reduced_dimensions

aten = torch.ops.aten


@rule(aten.linalg_vector_norm.default)
def vector_norm(
    op: Any, x: DomainTensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The norm of the ranks' norms; of order 0 their sum."""
    dims = reduced_dimensions(dim, x.dim())
    if not (x.is_floating_point() or x.is_complex()):
        raise RuntimeError(f"{op}: Expected a floating point or complex tensor as input. Got {x.dtype}")
    if x._cut.dim not in dims:
        part = op(x._local, ord, dims, keepdim, dtype=dtype)
        return DomainTensor(part, after_reduction(x._cut, dims, keepdim))
    if x.numel() == 0:
        return NotImplemented
    asked = dtype or x.dtype
    result = asked.to_real()
    if x._local.numel() > 0:
        part = op(x._local, ord, dims, keepdim, dtype=wide(asked))
    else:
        part = x._local.new_zeros(reduced_shape(x._local.shape, dims, keepdim), dtype=wide(result))
    if ord == 0:
        return moves.reduce_sum(part, x.domain).to(result)
    return aten.linalg_vector_norm.default(of_ranks_with_rows(part, x._cut), ord, [0]).to(result)


@rule(aten.norm.Scalar, aten.norm.ScalarOpt_dim)
def norm(op: Any, x: DomainTensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The older spelling."""
    return aten.linalg_vector_norm.default(x, 2 if p is None else p, dim, keepdim)


@rule(aten.norm.ScalarOpt_dtype)
def norm_in_dtype(op: Any, x: DomainTensor, p: Any, *, dtype: Any) -> Tensor:
    """The older spelling."""
    return aten.linalg_vector_norm.default(x, 2 if p is None else p, None, False, dtype=dtype)


@rule(aten.norm.ScalarOpt_dim_dtype)
def norm_of_dimensions_in_dtype(op: Any, x: DomainTensor, p: Any, dim: Any, keepdim: bool, *, dtype: Any) -> Tensor:
    """The older spelling."""
    return aten.linalg_vector_norm.default(x, 2 if p is None else p, dim, keepdim, dtype=dtype)


@rule(aten.dist.default)
def distance(op: Any, x: Any, y: Any, p: Any = 2) -> Tensor:
    """The norm of a difference."""
    return aten.linalg_vector_norm.default(aten.sub.Tensor(x, y), p)


@rule(aten.logsumexp.default)
def logsumexp(op: Any, x: DomainTensor, dim: Any, keepdim: bool = False) -> Tensor:
    """The logarithm of the sum of the ranks' exponentials."""
    dims = reduced_dimensions(dim, x.dim())
    if x._cut.dim not in dims:
        return DomainTensor(op(x._local, dims, keepdim), after_reduction(x._cut, dims, keepdim))
    if x.numel() == 0:
        return NotImplemented
    local = x._local.to(wide(x.dtype))
    if not x.is_floating_point():
        local = local.to(local.dtype if x.is_complex() else torch.get_default_dtype())
    part = op(local, dims, keepdim)
    result = x.dtype if x.is_floating_point() else part.dtype
    return op(of_ranks_with_rows(part, x._cut), [0]).to(result)
