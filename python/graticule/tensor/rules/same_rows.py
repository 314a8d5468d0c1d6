"""Ops that make a tensor like their argument, row by row, and have no tag that says so."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.layout import strides_in_order
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
    """Of as many dimensions as x: cut along the same, unless that has a single row; else plain."""
    cut = x._cut
    sizes = list(size)
    if len(sizes) != x.dim() or sizes[cut.dim] != cut.size and sizes[cut.dim] < 2:
        return op(x._local, sizes, *args, **kwargs)
    if sizes[cut.dim] != cut.size:
        cut = Cut.balanced(cut.domain, cut.dim, sizes[cut.dim])
    sizes[cut.dim] = cut.own_size
    return DomainTensor(op(x._local, sizes, *args, **kwargs), cut)
