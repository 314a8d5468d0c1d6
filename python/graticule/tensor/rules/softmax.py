"""Softmax, its logarithm, and their gradients, along the cut dimension or across it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import of_all_ranks, wide
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.support import wrapped

aten = torch.ops.aten


@rule(aten._softmax.default, aten._log_softmax.default)
def softmax(op: Any, x: DomainTensor, dim: int, half_to_float: bool = False) -> Tensor:
    """Along the cut dimension the ranks' maxima and sums are merged, in one collective."""
    if wrapped(dim, x.dim()) != x._cut.dim:
        return DomainTensor(op(x._local, dim, half_to_float), x._cut)
    result = torch.float32 if half_to_float else x.dtype
    local = x._local.to(wide(x.dtype))
    if op is aten._softmax.default:
        value, share, _ = _exponentials(local, x._cut)
        value.mul_(share)
    else:
        _, _, offset = _exponentials(local, x._cut)
        value = local - offset[0]
        value.sub_(offset[1].log())
    return DomainTensor(value.to(result), x._cut)


@rule(aten._safe_softmax.default)
def safe_softmax(op: Any, x: DomainTensor, dim: int, dtype: Any = None) -> Tensor:
    """Softmax that is zero, not undefined, where all values are minus infinity."""
    if wrapped(dim, x.dim()) != x._cut.dim:
        return DomainTensor(op(x._local, dim, dtype), x._cut)
    result = dtype or x.dtype
    value, share, (largest, _) = _exponentials(x._local.to(wide(result)), x._cut)
    value.mul_(share).masked_fill_(largest == -torch.inf, 0)
    return DomainTensor(value.to(result), x._cut)


def _exponentials(local: Tensor, cut: Cut) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """exp(value - the rank's largest), what makes softmax of it, and of all ranks (largest, sum of exp(value - it))."""
    if cut.own == 0:
        shape = list(local.shape)
        shape[cut.dim] = 1
        values, largest, total = local.clone(), local.new_full(shape, -torch.inf), local.new_zeros(shape)
    else:
        largest = local.amax(cut.dim, keepdim=True)
        # A rank whose values are all minus infinity adds nothing to what others have.
        values = (local - largest.clamp_min(torch.finfo(local.dtype).min)).exp_()
        total = values.sum(cut.dim, keepdim=True)
    parts = of_all_ranks(torch.stack([largest, total]), cut.domain)
    largest = parts[:, 0].amax(0)
    shares = (parts[:, 0] - largest).exp_()
    total = (parts[:, 1] * shares).sum(0)
    return values, shares[cut.domain.rank] / total, (largest, total)


@rule(aten._softmax_backward_data.default, aten._log_softmax_backward_data.default)
def softmax_backward(op: Any, gradient: Any, output: Any, dim: int, input_dtype: torch.dtype) -> Tensor:
    """Along the cut dimension the ranks' sums are added up."""
    if not isinstance(output, DomainTensor):
        return NotImplemented
    cut = output._cut
    g, y = own_part(gradient, cut, output.dim()), output._local
    if wrapped(dim, output.dim()) != cut.dim:
        return DomainTensor(op(g.expand_as(y), y, dim, input_dtype), cut)
    g, y = g.to(wide(g.dtype)), y.to(wide(y.dtype))
    logarithmic = op is aten._log_softmax_backward_data.default
    total = (g if logarithmic else g * y).sum(cut.dim, keepdim=True)
    total = moves.reduce_sum(total, cut.domain)
    result = g - y.exp() * total if logarithmic else (g - total) * y
    return DomainTensor(result.to(input_dtype), cut)
