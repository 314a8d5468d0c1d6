"""Negative log-likelihood: classes uncut, samples and rows cut; a mean divides by the weight on all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.losses import MEAN, NONE, SUM
from graticule.tensor.rules.merging import wide
from graticule.tensor.rules.norms import are_plain
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.support import told_to_all

aten = torch.ops.aten


def _cut_of(x: Tensor, target: Tensor, weight: Any) -> Cut | None:
    """The cut of x that keeps its classes whole, or None where there is none."""
    if not are_plain(weight) or x.numel() == 0:
        return None
    classes = 1 if x.dim() > 1 else 0
    if isinstance(x, DomainTensor):
        return None if x._cut.dim == classes else x._cut
    if not isinstance(target, DomainTensor):
        return None
    cut = target._cut
    return cut.at(cut.dim + 1) if cut.dim >= classes else cut


def _target_cut(cut: Cut) -> Cut:
    return cut.at(cut.dim - 1) if cut.dim > 1 else cut


def _parts(x: Tensor, target: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """This rank's part of scores and target."""
    return own_part(x, cut, x.dim()), own_part(target, _target_cut(cut), target.dim())


def _check_sizes(op: Any, x: Tensor, target: Tensor) -> None:
    """RuntimeError where there is not one class for each place: what is of one row would be taken for all."""
    expected = list(x.shape)
    del expected[1 if x.dim() > 1 else 0]
    if list(target.shape) != expected:
        raise RuntimeError(f"{op}: expected a target of shape {expected}, got {list(target.shape)}")


@rule(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
def nll_loss(op: Any, x: Any, target: Any, weight: Any, reduction: int, ignored: int) -> Any:
    """The loss and the weight that it is divided by."""
    cut = _cut_of(x, target, weight)
    if cut is None:
        return NotImplemented
    _check_sizes(op, x, target)
    scores, classes = _parts(x, target, cut)
    if reduction == NONE:
        with told_to_all(cut.domain):
            losses, total_weight = op(scores, classes, weight, NONE, ignored)
        return DomainTensor(losses, _target_cut(cut)), total_weight
    inner = wide(x.dtype)
    sums = scores.new_zeros(2, dtype=inner)
    if scores.numel() > 0:
        given = None if weight is None else weight.to(inner)
        with told_to_all(cut.domain):
            sums = torch.stack(op(scores.to(inner), classes, given, SUM, ignored))
    total, total_weight = moves.reduce_sum(sums, cut.domain)
    result = total / total_weight if reduction == MEAN else total
    return result.to(x.dtype), total_weight.to(x.dtype)


@rule(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
def nll_loss_backward(
    op: Any, gradient: Any, x: Any, target: Any, weight: Any, reduction: int, ignored: int, total_weight: Tensor
) -> Any:
    """Local: the weight on all ranks is given."""
    cut = _cut_of(x, target, weight)
    if cut is None:
        return NotImplemented
    scores, classes = _parts(x, target, cut)
    if scores.numel() == 0:
        return DomainTensor(torch.zeros_like(scores), cut)
    if gradient.dim() > 0:
        gradient = own_part(gradient, _target_cut(cut), gradient.dim())
    return DomainTensor(op(gradient, scores, classes, weight, reduction, ignored, total_weight), cut)
