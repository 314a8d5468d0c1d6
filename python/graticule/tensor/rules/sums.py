"""Sums over rows: each rank's own, then over the ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.support import after_reduction, reduced_dimensions

aten = torch.ops.aten


@rule(aten.sum.default, aten.sum.dim_IntList)
def sums(op: Any, x: DomainTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """A sum over the cut dimension is a plain tensor, whole on every rank; over others, one cut like x."""
    dims = reduced_dimensions(dim, x.dim())
    part = aten.sum.dim_IntList(x._local, dims, keepdim, dtype=dtype)
    if x._cut.dim in dims:
        return moves.reduce_sum(part, x.domain)
    return DomainTensor(part, after_reduction(x._cut, dims, keepdim))
