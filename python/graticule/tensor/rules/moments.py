"""Variance and standard deviation."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import moments
from graticule.tensor.rules.support import after_reduction, reduced_dimensions

aten = torch.ops.aten

_ROOTS = {aten.std.correction, aten.std_mean.correction}
_PAIRS = {aten.var_mean.correction, aten.std_mean.correction}


@rule(aten.var.correction, aten.std.correction, aten.var_mean.correction, aten.std_mean.correction)
def variance(op: Any, x: DomainTensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    """Over the cut dimension the ranks' moments are merged, in float64."""
    dims = reduced_dimensions(dim, x.dim())
    if x._cut.dim not in dims:
        cut = after_reduction(x._cut, dims, keepdim)
        parts = op(x._local, dims, correction=correction, keepdim=keepdim)
        return tuple(DomainTensor(part, cut) for part in parts) if op in _PAIRS else DomainTensor(parts, cut)
    if not x.is_floating_point():
        return NotImplemented
    mean, deviations, count = moments(x._local, x._cut, dims)
    result = deviations / max(0.0, count - (1 if correction is None else correction))
    if op in _ROOTS:
        result = result.sqrt_()
    if not keepdim:
        result, mean = result.squeeze(dims), mean.squeeze(dims)
    return (result.to(x.dtype), mean.to(x.dtype)) if op in _PAIRS else result.to(x.dtype)
