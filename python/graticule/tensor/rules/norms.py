"""Group and layer normalisation, in graticule's own ops where the statistics go over the cut dimension.

Their statistics are float64 then, as the backward ops want them. Gradients of weights and biases are whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves, report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import gradients, wide
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.result_cuts import raise_as_torch
from graticule.tensor.rules.support import whole
from graticule.tensor.running import uncut

aten = torch.ops.aten
_ops = torch.ops.graticule


def normalised(local: Tensor, weight: Any, bias: Any, groups: int, eps: float, cut: Cut) -> tuple[Tensor, ...]:
    """(y, mean, rstd) of graticule.group_norm_forward for (N, C, ...) cut along a dimension from 2 on."""
    with report.move("reduction", cut.domain):
        return _ops.group_norm_forward(
            local, weight, bias, groups, eps, scaled_offsets(cut), cut.dim, cut.domain.group_name, "group_norm"
        )


def normalised_backward(
    gradient: Tensor, local: Tensor, mean: Tensor, rstd: Tensor, weight: Any, groups: int, cut: Cut, wanted: list[bool]
) -> tuple[Any, ...]:
    """This rank's part of the gradients of x, weight and bias."""
    with report.move("reduction", cut.domain):
        return _ops.group_norm_backward(
            gradient,
            local,
            mean.double(),
            rstd.double(),
            weight,
            groups,
            0.0,
            scaled_offsets(cut),
            cut.dim,
            cut.domain.group_name,
            "group_norm",
            wanted,
        )


def scaled_offsets(cut: Cut) -> tuple[int, ...]:
    """The cut's offsets in values of its dimension, for ops of statistics."""
    # Statistics do not ask where a value lies, only how many each rank has.
    return tuple(offset * cut.outer * cut.inner for offset in cut.offsets)


def uncut_backward(op: Any, *args: Any) -> tuple[Any, ...]:
    """The op run uncut; gradients of parameters are whole, though they may have as many values as there are rows."""
    of_x, *of_parameters = uncut(op, args, {})
    return of_x, *map(whole, of_parameters)


def are_plain(*tensors: Any) -> bool:
    """Whether none of them is cut."""
    return not any(isinstance(t, DomainTensor) for t in tensors)


def refuse_whole_numbers(op: Any, x: Tensor) -> None:
    """NotImplementedError for what ATen's kernels refuse, and sums would take."""
    if not x.is_floating_point():
        raise NotImplementedError(f"{op}: not implemented for {x.dtype}")


@rule(aten.native_group_norm.default)
def group_norm(
    op: Any, x: Any, weight: Any, bias: Any, n: int, channels: int, values: int, groups: int, eps: float
) -> Any:
    """Statistics over rows are merged; samples that are cut are each rank's own."""
    if not isinstance(x, DomainTensor) or x._cut.dim == 1 or not are_plain(weight, bias) or x.numel() == 0:
        return NotImplemented
    refuse_whole_numbers(op, x)
    cut, local = x._cut, x._local
    if cut.dim == 0:
        parts = op(local, weight, bias, local.shape[0], channels, values, groups, eps)
        return tuple(DomainTensor(part, cut) for part in parts)
    y, mean, rstd = normalised(local, weight, bias, groups, eps, cut)
    return DomainTensor(y, cut), mean, rstd


@rule(aten.native_group_norm_backward.default)
def group_norm_backward(
    op: Any,
    gradient: Any,
    x: Any,
    mean: Tensor,
    rstd: Tensor,
    weight: Any,
    n: int,
    channels: int,
    values: int,
    groups: int,
    wanted: list[bool],
) -> Any:
    """Sums over rows are merged; so are the gradients of weight and bias."""
    if not isinstance(x, DomainTensor) or x._cut.dim == 1 or not are_plain(weight) or x.numel() == 0:
        return uncut_backward(op, gradient, x, mean, rstd, weight, n, channels, values, groups, wanted)
    cut, local = x._cut, x._local
    g = own_part(gradient, cut, x.dim()).expand_as(local)
    if cut.dim == 0:
        statistics = [own_part(t, cut, t.dim()) for t in (mean, rstd)]
        parts = op(g.contiguous(), local, *statistics, weight, local.shape[0], channels, values, groups, wanted)
    else:
        parts = normalised_backward(g, local, mean, rstd, weight, groups, cut, wanted)
    return gradients(parts, wanted, cut)


@rule(aten.native_layer_norm.default)
def layer_norm(op: Any, x: Any, shape: list[int], weight: Any, bias: Any, eps: float) -> Any:
    """Over the cut dimension with merged statistics and the rank's rows of the weights; over others local."""
    if not isinstance(x, DomainTensor) or not are_plain(weight, bias) or x.numel() == 0:
        return NotImplemented
    if list(x.shape[x.dim() - len(shape) :]) != list(shape):
        rank = x._cut.domain.rank
        raise RuntimeError(
            f"layer_norm: rank {rank}: expected a tensor whose shape ends in {shape}, got {list(x.shape)}"
        )
    if any(t is not None and list(t.shape) != list(shape) for t in (weight, bias)):
        raise_as_torch(op, x, shape, weight, bias, eps)
    refuse_whole_numbers(op, x)
    cut, local, lead = x._cut, x._local, x.dim() - len(shape)
    if cut.dim < lead:
        return tuple(DomainTensor(part, cut) for part in op(local, shape, weight, bias, eps))
    if any(t is not None and t.dtype != x.dtype for t in (weight, bias)):
        # Torch's own answer, for a tensor of one value.
        one = torch.ones(1, dtype=x.dtype, device=x.device)
        op(one, [1], *(None if t is None else one.to(t.dtype) for t in (weight, bias)), eps)
    rows, rows_cut = _as_one_channel(local, cut, lead)
    y, mean, rstd = normalised(rows.to(wide(x.dtype)), None, None, 1, eps, rows_cut)
    y = y.view(local.shape)
    if weight is not None:
        y = y * own_part(weight, cut, x.dim())
    if bias is not None:
        y = y + own_part(bias, cut, x.dim())
    kept = list(x.shape[:lead]) + [1] * len(shape)
    return DomainTensor(y.to(x.dtype), cut), mean.view(kept), rstd.view(kept)


def _as_one_channel(local: Tensor, cut: Cut, lead: int) -> tuple[Tensor, Cut]:
    """Dimensions before `lead` as samples, a channel, and the rest."""
    samples = 1
    for size in local.shape[:lead]:
        samples *= size
    return local.reshape(samples, 1, *local.shape[lead:]), cut.at(2 + cut.dim - lead)


@rule(aten.native_layer_norm_backward.default)
def layer_norm_backward(
    op: Any,
    gradient: Any,
    x: Any,
    shape: list[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Any,
    bias: Any,
    wanted: list[bool],
) -> Any:
    """The gradients of weights that have the cut dimension are collected, those of others added up."""
    if not isinstance(x, DomainTensor) or not are_plain(weight, bias) or x.numel() == 0:
        return uncut_backward(op, gradient, x, shape, mean, rstd, weight, bias, wanted)
    cut, local, lead = x._cut, x._local, x.dim() - len(shape)
    g = own_part(gradient, cut, x.dim()).expand_as(local)
    if cut.dim < lead:
        statistics = [own_part(t, cut, t.dim()) for t in (mean, rstd)]
        return gradients(op(g.contiguous(), local, shape, *statistics, weight, bias, wanted), wanted, cut)
    of_x = of_weight = of_bias = None
    inner = wide(x.dtype)
    rows, rows_cut = _as_one_channel(local.to(inner), cut, lead)
    g = g.to(inner)
    before = list(range(lead))
    parameter_cut = cut.at(cut.dim - lead)
    if wanted[0]:
        scaled = g if weight is None else g * own_part(weight, cut, x.dim())
        part = normalised_backward(
            scaled.reshape(rows.shape), rows, mean.flatten().unsqueeze(1), rstd.flatten().unsqueeze(1), None, 1,
            rows_cut, [True, False, False],
        )[0]  # fmt: skip
        of_x = DomainTensor(part.view(local.shape).to(x.dtype), cut)
    if wanted[1] and weight is not None:
        part = _sum(g * (local - mean) * rstd, before)
        of_weight = moves.replicate(part.to(weight.dtype), parameter_cut)
    if wanted[2] and bias is not None:
        of_bias = moves.replicate(_sum(g, before).to(bias.dtype), parameter_cut)
    return of_x, of_weight, of_bias


def _sum(t: Tensor, dims: list[int]) -> Tensor:
    return t.sum(dims) if dims else t.contiguous()


@rule(aten._fused_rms_norm.default)
def rms_norm(op: Any, x: Any, shape: list[int], weight: Any, eps: float | None) -> Any:
    """What a GPU's tensors come to. Local where the cut dimension is not normalised over, else as its parts."""
    if not isinstance(x, DomainTensor) or not are_plain(weight) or x._cut.dim >= x.dim() - len(shape):
        return NotImplemented
    return tuple(DomainTensor(part, x._cut) for part in op(x._local, shape, weight, eps))


@rule(aten._fused_rms_norm_backward.default)
def rms_norm_backward(
    op: Any, gradient: Any, x: Any, shape: list[int], rstd: Any, weight: Any, wanted: list[bool]
) -> Any:
    """The gradient of the weight is a sum over the ranks."""
    if not isinstance(x, DomainTensor) or not are_plain(weight) or x._cut.dim >= x.dim() - len(shape):
        return NotImplemented
    cut = x._cut
    g = own_part(gradient, cut, x.dim()).expand_as(x._local).contiguous()
    return gradients(op(g, x._local, shape, own_part(rstd, cut, x.dim()), weight, wanted), wanted, cut)
