"""Batch normalisation, in every spelling that ATen has: statistics over samples and rows, merged over the ranks.

In graticule's own op, but for two cases that send nothing: in evaluation ATen's op does each rank's rows, and where the
channels are cut each rank has all of its own. Running statistics are plain tensors, updated alike on every rank. Saved
statistics are float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves, report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import moments, summed, wide
from graticule.tensor.rules.norms import are_plain, refuse_whole_numbers, scaled_offsets, uncut_backward
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.running import uncut

aten = torch.ops.aten
_ops = torch.ops.graticule


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _own_channels(parameter: Any, cut: Cut) -> Any:
    """A parameter's part where channels are cut: a copy, so that it can be written to."""
    return parameter if parameter is None or cut.dim != 1 else cut.at(0).part_of(parameter).clone()


def _normalise(
    x: DomainTensor, weight: Any, bias: Any, running: list[Any], training: bool, momentum: float, eps: float
) -> tuple[Any, Any, Any, list[Any]]:
    """(y, mean, rstd, the running statistics after it)."""
    refuse_whole_numbers(f"batch_norm of {list(x.shape)}", x)
    cut, local = x._cut, x._local
    new = [None if t is None else t.clone() for t in running]
    if not training:
        return DomainTensor(_evaluated(x, weight, bias, running, eps), cut), local.new_empty(0), local.new_empty(0), new
    count = x.numel() // x.shape[1]
    if cut.dim == 1:
        y, mean, rstd, deviations = _of_own_channels(local, cut, weight, bias, eps)
    else:
        with report.move("reduction", cut.domain):
            y, mean, rstd, deviations = _ops.batch_norm_forward(_spatial(local), weight, bias, eps, *_place(cut))
        y = y.view(local.shape)
    for kept, value in zip(new, (mean, deviations / max(0.0, count - 1)), strict=True):
        if kept is not None:
            whole = moves.replicate(value, cut.at(0)) if cut.dim == 1 else value
            kept.lerp_(whole.to(kept.dtype), momentum)
    if cut.dim == 1:
        mean, rstd = DomainTensor(mean, cut.at(0)), DomainTensor(rstd, cut.at(0))
    return DomainTensor(y, cut), mean, rstd, new


def _spatial(local: Tensor) -> Tensor:
    """(N, C) as (N, C, 1): the op's statistics go over dimensions from 2 on."""
    return local.unsqueeze(-1) if local.dim() == 2 else local


def _place(cut: Cut) -> tuple[Any, ...]:
    return scaled_offsets(cut), cut.dim, cut.domain.group_name, "batch_norm"


def _evaluated(x: DomainTensor, weight: Any, bias: Any, running: list[Any], eps: float) -> Tensor:
    cut, local = x._cut, x._local
    if local.numel() == 0:
        return torch.empty_like(local)
    own = [_own_channels(t, cut) for t in (weight, bias, *running)]
    return aten.native_batch_norm(local, *own, False, 0.0, eps)[0]


def _of_own_channels(local: Tensor, cut: Cut, weight: Any, bias: Any, eps: float) -> tuple[Tensor, ...]:
    mean, deviations, count = moments(local, cut, [d for d in range(local.dim()) if d != 1])
    mean, deviations = mean.flatten(), deviations.flatten()
    rstd = (deviations / count).add_(eps).rsqrt_()
    return _affine(local, mean, rstd, _own_channels(weight, cut), _own_channels(bias, cut)), mean, rstd, deviations


def _affine(local: Tensor, mean: Tensor, rstd: Tensor, weight: Any, bias: Any) -> Tensor:
    scale = rstd if weight is None else rstd * weight
    shift = mean * scale
    shift = shift.neg_() if bias is None else bias - shift
    inner = wide(local.dtype)
    factors = torch.stack([scale, shift]).to(inner).view(2, 1, -1, *[1] * (local.dim() - 2))
    return torch.addcmul(factors[1], local.to(inner), factors[0]).to(local.dtype)


def _refused(x: Any, *others: Any) -> bool:
    return not isinstance(x, DomainTensor) or not are_plain(*others) or x.numel() == 0


@rule(aten.native_batch_norm.default, aten._native_batch_norm_legit.default, aten.cudnn_batch_norm.default)
def batch_norm(
    op: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> Any:
    """Writes the running statistics. cuDNN's is what a GPU's tensors come to in training, and has a fourth result."""
    if _refused(x, weight, bias, mean, variance):
        return uncut(op, (x, weight, bias, mean, variance, training, momentum, eps), {})
    *result, new = _normalise(x, weight, bias, [mean, variance], training, momentum, eps)
    if training:
        _write([mean, variance], new)
    return (*result, _reserve()) if op is aten.cudnn_batch_norm.default else tuple(result)


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


@rule(aten.cudnn_batch_norm_backward.default)
def batch_norm_of_cudnn_backward(
    op: Any, x: Any, gradient: Any, weight: Any, mean: Any, variance: Any, saved_mean: Any, saved_rstd: Any,
    eps: float, reserve: Tensor,
) -> Any:  # fmt: skip
    """Of training alone; the gradients of weight and bias are both made."""
    if _refused(x, weight, mean, variance):
        return uncut_backward(op, x, gradient, weight, mean, variance, saved_mean, saved_rstd, eps, reserve)
    statistics = (mean, variance, saved_mean, saved_rstd)
    return batch_norm_backward(op, gradient, x, weight, *statistics, True, eps, [True, True, True])


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
    g = own_part(gradient, cut, x.dim()).expand_as(local)
    if cut.dim == 1 or not training:
        statistics = (running_mean, running_variance, saved_mean, saved_rstd)
        return _backward_alone(g, local, cut, weight, statistics, training, eps, wanted)
    with report.move("reduction", cut.domain):
        of_x, of_weight, of_bias = _ops.batch_norm_backward(
            _spatial(g), _spatial(local), saved_mean.double(), saved_rstd.double(), weight, *_place(cut), wanted
        )
    return DomainTensor(of_x.view(local.shape), cut) if wanted[0] else None, of_weight, of_bias


def _backward_alone(
    g: Tensor, local: Tensor, cut: Cut, weight: Any, statistics: Any, training: bool, eps: float, wanted: list[bool]
) -> tuple[Any, ...]:
    """Where no statistics are merged: this rank's rows or channels, then the parameters' gradients."""
    mean, variance, saved_mean, saved_rstd = statistics
    dims = [d for d in range(local.dim()) if d != 1]
    inner = wide(local.dtype)
    g, values = g.to(inner), local.to(inner)
    if training:
        mean, rstd = (own_part(t, cut.at(0), 1) for t in (saved_mean, saved_rstd))
    else:
        mean, variance = (_own_channels(t, cut).double() for t in (mean, variance))
        rstd = (variance + eps).rsqrt_()
    centred = values - _per_channel(mean, values).to(inner)
    sums = torch.stack([(g * centred).sum(dims, dtype=torch.float64) * rstd, g.sum(dims, dtype=torch.float64)])
    scale = rstd.double() if weight is None else rstd.double() * _own_channels(weight, cut)
    of_x = None
    if wanted[0]:
        part = g
        if training:
            count = local.numel() // max(1, local.shape[1])
            slope = (sums[0] * rstd.double() / count).to(inner)
            part = g - _per_channel((sums[1] / count).to(inner), g) - centred * _per_channel(slope, g)
        of_x = DomainTensor((part * _per_channel(scale.to(inner), g)).to(local.dtype), cut)
    whole: Any = moves.replicate(sums, cut) if cut.dim == 1 else summed([sums], cut)[0]
    whole = whole.to(local.dtype if weight is None else weight.dtype)
    return of_x, whole[0].clone() if wanted[1] else None, whole[1].clone() if wanted[2] else None
