"""Ops that make a tensor like their argument, row by row, and have no tag that says so."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor.domain_tensor import DomainTensor, strides_in_order
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import pointwise

aten = torch.ops.aten


@rule(aten.detach.default, aten.alias.default, aten.lift_fresh.default)
def alias(op: Any, x: DomainTensor) -> DomainTensor:
    """The same memory."""
    return DomainTensor(op(x._local), x._cut, x._moved, strides=x.stride())


@rule(
    aten.clone.default,
    aten._to_copy.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.native_dropout_backward.default,
    aten.masked_fill.Tensor,
)
def copies(op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A tensor of x's shape and cut."""
    return pointwise(op, x, *args, **kwargs)


@rule(aten.copy_.default, aten.zero_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.masked_fill_.Tensor)
def writes(op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A write into x."""
    return pointwise(op, x, *args, **kwargs)


@rule(aten.new_empty_strided.default)
def new_with_strides(op: Any, x: DomainTensor, size: Any, stride: Any, **kwargs: Any) -> Any:
    """Of x's shape, cut like x: what autograd lays gradients out in."""
    if list(size) != list(x.shape):
        return NotImplemented
    local = tuple(x._local.shape)
    return DomainTensor(op(x._local, local, strides_in_order(tuple(stride), tuple(size), local), **kwargs), x._cut)


@rule(aten.new_zeros.default, aten.new_ones.default, aten.new_empty.default, aten.new_full.default)
def new(op: Any, x: DomainTensor, size: Any, *args: Any, **kwargs: Any) -> Any:
    """Of x's shape, cut like x; so is one that has several values in a dimension where x has one of them."""
    differ = [d for d, (new_size, old_size) in enumerate(zip(size, x.shape, strict=False)) if new_size != old_size]
    if len(size) != x.dim() or len(differ) > 1 or any(x.shape[d] != 1 or d == x._cut.dim for d in differ):
        return NotImplemented
    local = list(size)
    local[x._cut.dim] = x._cut.own_size
    return DomainTensor(op(x._local, local, *args, **kwargs), x._cut)
