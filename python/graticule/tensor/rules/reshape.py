"""Reshapes: the cut is followed through merges and splits of dimensions; rows move where a split needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.reshaping import Plan, plan_reshape

aten = torch.ops.aten


@rule(aten.view.default, aten._reshape_alias.default)
def view(op: Any, x: DomainTensor, shape: Any, strides: Any = None) -> Tensor:
    """A view of the rank's own memory where no rows move and it can be; else a copy that refuses writes."""
    plan = plan_reshape(tuple(x.shape), x.stride(), x._cut, tuple(shape))
    if plan.strides is None and _strides_are_known(x):
        raise RuntimeError(
            f"{op}: rank {x.domain.rank}: expected a shape that dimensions of {tuple(x.shape)} with strides "
            f"{x.stride()} can be viewed in, got {plan.shape}: use reshape"
        )
    return reshaped(x, plan)


@rule(aten._unsafe_view.default, aten._reshape_copy.default, aten.view_copy.default)
def copied_view(op: Any, x: DomainTensor, shape: Any) -> Tensor:
    """A tensor of its own, of which nobody expects that it share memory."""
    result = reshaped(x, plan_reshape(tuple(x.shape), x.stride(), x._cut, tuple(shape)))
    if op is not aten._unsafe_view.default:
        return result.clone()
    return DomainTensor(result._local, result._cut) if isinstance(result, DomainTensor) else result


def reshape(x: DomainTensor, shape: Any) -> Tensor:
    """What x.reshape gives, for other rules; it may share x's memory."""
    return reshaped(x, plan_reshape(tuple(x.shape), x.stride(), x._cut, tuple(shape)))


def reshaped(x: DomainTensor, plan: Plan) -> Tensor:
    """Carries a plan out."""
    local = x._local
    if plan.cut is None:
        return moves.replicate(local, x._cut).reshape(plan.shape)
    moved = x._moved or plan.strides is None
    if plan.move is not None:
        before = local.reshape(plan.move.local)
        local = moves.recut(before, plan.move.old, plan.move.new)
        moved = moved or x.domain.size > 1
    try:
        result = local.view(plan.local)
    except RuntimeError:
        result, moved = local.reshape(plan.local), True
    return DomainTensor(result, plan.cut, moved, strides=plan.strides)


def _strides_are_known(x: DomainTensor) -> bool:
    """Whether every rank knows the same strides of x: those of its memory where it has two rows or more."""
    offsets = x._cut.offsets
    return all(end - begin > 1 for begin, end in zip(offsets, offsets[1:], strict=False))
