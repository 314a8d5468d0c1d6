"""Batch normalisation, in every spelling that ATen has: statistics over samples and rows, merged over the ranks.

Running statistics are plain tensors, updated alike on every rank. Saved statistics are float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import moments, wide
from graticule.tensor.rules.norms import are_plain, uncut_backward
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.running import uncut

aten = torch.ops.aten


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _own_channels(parameter: Any, cut: Cut) -> Any:
    """A parameter's part where channels are cut: a copy, so that it can be written to."""
    return parameter if parameter is None or cut.dim != 1 else cut.at(0).part_of(parameter).clone()


def _normalise(
    x: DomainTensor, weight: Any, bias: Any, running: list[Any], training: bool, momentum: float, eps: float
) -> tuple[Any, Any, Any, list[Any]]:
    """(y, mean, rstd, the running statistics after it)."""
    cut, local = x._cut, x._local
    new = [None if t is None else t.clone() for t in running]
    if not training:
        mean, variance = (_own_channels(t, cut) for t in running)
        rstd = (variance.double() + eps).rsqrt_()
        statistics: list[Any] = [local.new_empty(0), local.new_empty(0)]
    else:
        dims = [d for d in range(x.dim()) if d != 1]
        mean, deviations, count = moments(local, cut, dims)
        mean, deviations = mean.flatten(), deviations.flatten()
        rstd = (deviations / count).add_(eps).rsqrt_()
        statistics = [mean, rstd]
        unbiased = deviations / max(0.0, count - 1)
        for kept, value in zip(new, (mean, unbiased), strict=True):
            if kept is not None:
                whole = moves.replicate(value, cut.at(0)) if cut.dim == 1 else value
                kept.lerp_(whole.to(kept.dtype), momentum)
        if cut.dim == 1:
            statistics = [DomainTensor(t, cut.at(0)) for t in statistics]
    y = _affine(local, mean, rstd, _own_channels(weight, cut), _own_channels(bias, cut))
    return DomainTensor(y, cut), statistics[0], statistics[1], new


def _affine(local: Tensor, mean: Tensor, rstd: Tensor, weight: Any, bias: Any) -> Tensor:
    scale = rstd if weight is None else rstd * weight
    shift = mean * scale
    shift = shift.neg_() if bias is None else bias - shift
    inner = wide(local.dtype)
    factors = torch.stack([scale, shift]).to(inner).view(2, 1, -1, *[1] * (local.dim() - 2))
    return torch.addcmul(factors[1], local.to(inner), factors[0]).to(local.dtype)


def _refused(x: Any, *others: Any) -> bool:
    return not isinstance(x, DomainTensor) or not are_plain(*others) or x.numel() == 0


@rule(aten.native_batch_norm.default, aten._native_batch_norm_legit.default)
def batch_norm(
    op: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> Any:
    """Writes the running statistics."""
    if _refused(x, weight, bias, mean, variance):
        return uncut(op, (x, weight, bias, mean, variance, training, momentum, eps), {})
    *result, new = _normalise(x, weight, bias, [mean, variance], training, momentum, eps)
    if training:
        _write([mean, variance], new)
    return tuple(result)


def _write(kept: list[Any], new: list[Any]) -> None:
    for old, value in zip(kept, new, strict=True):
        if old is not None:
            old.copy_(value)


@rule(aten._native_batch_norm_legit.no_stats)
def batch_norm_without_statistics(
    op: Any, x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> Any:
    """Has no running statistics."""
    if _refused(x, weight, bias) or not training:
        return NotImplemented
    return _normalise(x, weight, bias, [None, None], True, momentum, eps)[:3]


@rule(aten._native_batch_norm_legit_functional.default)
def functional_batch_norm(
    op: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> Any:
    """Returns the running statistics."""
    if _refused(x, weight, bias, mean, variance):
        return uncut(op, (x, weight, bias, mean, variance, training, momentum, eps), {})
    *result, new = _normalise(x, weight, bias, [mean, variance], training, momentum, eps)
    return *result, *new


def _reserve() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)


@rule(aten._batch_norm_with_update.default, aten._batch_norm_with_update_functional.default)
def batch_norm_with_update(
    op: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> Any:
    """Always trains."""
    if _refused(x, weight, bias, mean, variance):
        return uncut(op, (x, weight, bias, mean, variance, momentum, eps), {})
    *result, new = _normalise(x, weight, bias, [mean, variance], True, momentum, eps)
    if op is aten._batch_norm_with_update_functional.default:
        return *result, _reserve(), *new
    _write([mean, variance], new)
    return *result, _reserve()


@rule(aten._batch_norm_no_update.default)
def batch_norm_without_update(
    op: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> Any:
    """Never trains."""
    if _refused(x, weight, bias, mean, variance) or mean is None or variance is None:
        return uncut(op, (x, weight, bias, mean, variance, momentum, eps), {})
    return *_normalise(x, weight, bias, [mean, variance], False, momentum, eps)[:3], _reserve()


@rule(aten.native_batch_norm_backward.default, aten.batch_norm_backward.default)
def batch_norm_backward(
    op: Any,
    gradient: Any,
    x: Any,
    weight: Any,
    running_mean: Any,
    running_variance: Any,
    saved_mean: Any,
    saved_rstd: Any,
    training: bool,
    eps: float,
    wanted: list[bool],
    *reserve: Any,
) -> Any:
    """Two sums for each channel are merged in one reduction; they are the gradients of weight and bias, too."""
    if _refused(x, weight, running_mean, running_variance):
        statistics = (running_mean, running_variance, saved_mean, saved_rstd)
        return uncut_backward(op, gradient, x, weight, *statistics, training, eps, wanted, *reserve)
    cut, local = x._cut, x._local
    dims = [d for d in range(x.dim()) if d != 1]
    inner = wide(local.dtype)
    g, values = own_part(gradient, cut, x.dim()).expand_as(local).to(inner), local.to(inner)
    if training:
        mean, rstd = (own_part(t, cut.at(0), 1) if cut.dim == 1 else t for t in (saved_mean, saved_rstd))
    else:
        mean, variance = (_own_channels(t, cut).double() for t in (running_mean, running_variance))
        rstd = (variance + eps).rsqrt_()
    centred = values - _per_channel(mean, values).to(inner)
    sums = torch.stack([g.sum(dims, dtype=torch.float64), (g * centred).sum(dims, dtype=torch.float64)])
    if cut.dim != 1:
        sums = moves.reduce_sum(sums, cut.domain)
    scale = rstd.double() if weight is None else rstd.double() * _own_channels(weight, cut)
    of_x = None
    if wanted[0]:
        part = g
        if training:
            count = x.numel() // x.shape[1]
            slope = (sums[1] * rstd.double().square() / count).to(inner)
            part = g - _per_channel((sums[0] / count).to(inner), g) - centred * _per_channel(slope, g)
        of_x = DomainTensor((part * _per_channel(scale.to(inner), g)).to(local.dtype), cut)
    type_of = local.dtype if weight is None else weight.dtype
    of_parameters = torch.stack([sums[1] * rstd, sums[0]]).to(type_of)
    if cut.dim == 1:
        of_parameters = moves.replicate(of_parameters, cut)
    of_weight, of_bias = (part.clone() for part in of_parameters)
    return of_x, of_weight if wanted[1] else None, of_bias if wanted[2] else None
