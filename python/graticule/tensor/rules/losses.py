"""Losses of one value for each element: a mean is over all ranks' elements, and so is its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import pointwise
from graticule.tensor.rules.support import told_to_all

aten = torch.ops.aten

NONE, MEAN, SUM = 0, 1, 2


def reduced(losses: Any, reduction: int) -> Any:
    """The elements' losses, their mean or their sum."""
    if reduction == NONE:
        return losses
    return (aten.mean.default if reduction == MEAN else aten.sum.default)(losses)


def are_alike(*tensors: Tensor) -> bool:
    """Whether they have one shape: gradients are not those of broadcast arguments."""
    return all(t.shape == tensors[0].shape for t in tensors)


@rule(aten.mse_loss.default, aten.soft_margin_loss.default)
def loss(op: Any, x: Any, target: Any, reduction: int = MEAN) -> Any:
    """Elements' losses, reduced."""
    return reduced(pointwise(op, x, target, NONE), reduction)


@rule(aten.smooth_l1_loss.default, aten.huber_loss.default)
def loss_with_threshold(op: Any, x: Any, target: Any, reduction: int = MEAN, threshold: float = 1.0) -> Any:
    """Elements' losses, reduced."""
    return reduced(pointwise(op, x, target, NONE, threshold), reduction)


@rule(aten.binary_cross_entropy.default)
def binary_cross_entropy(op: Any, x: Any, target: Any, weight: Any = None, reduction: int = MEAN) -> Any:
    """Elements' losses, reduced."""
    if weight is not None:
        # The op wants it in the target's shape.
        weight = weight.expand(target.shape)
    given = next(t for t in (x, target, weight) if isinstance(t, DomainTensor))
    with told_to_all(given._cut.domain):
        losses = pointwise(op, x, target, weight, NONE)
    return reduced(losses, reduction)


@rule(aten.binary_cross_entropy_with_logits.default)
def binary_cross_entropy_with_logits(
    op: Any, x: Any, target: Any, weight: Any = None, positive_weight: Any = None, reduction: int = MEAN
) -> Any:
    """Elements' losses, reduced."""
    return reduced(pointwise(op, x, target, weight, positive_weight, NONE), reduction)


@rule(
    aten.mse_loss_backward.default,
    aten.soft_margin_loss_backward.default,
    aten.smooth_l1_loss_backward.default,
    aten.huber_loss_backward.default,
)
def loss_backward(op: Any, gradient: Any, x: Any, target: Any, reduction: int, *threshold: float) -> Any:
    """As of a sum, divided by the number of all ranks' elements."""
    if not are_alike(x, target):
        return NotImplemented
    return pointwise(op, _of_each(gradient, x, reduction), x, target, _summed(reduction), *threshold)


@rule(aten.binary_cross_entropy_backward.default)
def binary_cross_entropy_backward(
    op: Any, gradient: Any, x: Any, target: Any, weight: Any = None, reduction: int = MEAN
) -> Any:
    """As of a sum, divided by the number of all ranks' elements."""
    if not are_alike(x, target):
        return NotImplemented
    if weight is not None:
        weight = weight.expand(target.shape)
    return pointwise(op, _of_each(gradient, x, reduction), x, target, weight, _summed(reduction))


def _of_each(gradient: Any, x: Tensor, reduction: int) -> Any:
    return gradient / x.numel() if reduction == MEAN else gradient


def _summed(reduction: int) -> int:
    return SUM if reduction == MEAN else reduction
