"""Views of the same values as another kind of number, views by strides, and changes of a tensor's own shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves, report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule

aten = torch.ops.aten


@rule(aten._conj.default, aten._neg_view.default)
def lazy(op: Any, x: DomainTensor) -> DomainTensor:
    """Made at once: what moves rows, and who asks for the rank's own, read plain memory."""
    local = x._local.conj_physical() if op is aten._conj.default else x._local.neg()
    return DomainTensor(local, x._cut, True, strides=x.stride())


@rule(aten.view_as_real.default)
def view_as_real(op: Any, x: DomainTensor) -> DomainTensor:
    """A last dimension of 2 is added."""
    return DomainTensor(op(x._local), x._cut, x._moved, strides=(*(2 * stride for stride in x.stride()), 1))


@rule(aten.view_as_complex.default)
def view_as_complex(op: Any, x: DomainTensor) -> Any:
    """The last dimension, of 2, is removed: where it is not cut."""
    if x._cut.dim == x.dim() - 1:
        return NotImplemented
    return DomainTensor(op(x._local), x._cut, x._moved, strides=tuple(stride // 2 for stride in x.stride()[:-1]))


@rule(aten.view.dtype)
def view_dtype(op: Any, x: DomainTensor, dtype: torch.dtype) -> Any:
    """Where the last dimension is not cut, or keeps its size."""
    local = x._local
    if x._cut.dim == x.dim() - 1 and local.element_size() != dtype.itemsize:
        return NotImplemented
    old, new = local.element_size(), dtype.itemsize
    strides = x.stride()
    if old != new:
        strides = (*(stride * old // new for stride in strides[:-1]), 1)
    return DomainTensor(op(local, dtype), x._cut, x._moved, strides=strides)


@rule(aten.as_strided.default)
def as_strided(op: Any, x: DomainTensor, size: Any, stride: Any, storage_offset: Any = None) -> Tensor:
    """Of the whole tensor in the strides that it would have; the memory beyond a view is nobody's here."""
    report.refuse_gather(op)
    if storage_offset is not None and x._is_view():
        raise RuntimeError(
            f"{op}: rank {x.domain.rank}: expected no storage offset for a view, got {storage_offset}: a DomainTensor "
            "knows no memory beyond its own"
        )
    laid = torch.empty_strided(tuple(x.shape), x.stride(), dtype=x.dtype, device=x.device)
    laid.copy_(moves.gather(x._local, x._cut))
    result = op(laid, size, stride, storage_offset)
    if not result.dim():
        return result
    dim = max(range(result.dim()), key=lambda d: result.shape[d])
    cut = Cut.balanced(x.domain, dim, result.shape[dim])
    return DomainTensor(cut.part_of(result).contiguous(), cut, True, strides=result.stride())


@rule(aten.as_strided_scatter.default)
def as_strided_scatter(op: Any, x: Any, src: Any, *args: Any, **kwargs: Any) -> Any:
    """Refused, as are its gradients, which tell places by strides."""
    domain = (x if isinstance(x, DomainTensor) else src).domain
    raise RuntimeError(f"{op}: rank {domain.rank}: a DomainTensor knows no memory beyond its own: use slice_scatter")


@rule(
    aten.squeeze_.default,
    aten.squeeze_.dim,
    aten.squeeze_.dims,
    aten.unsqueeze_.default,
    aten.transpose_.default,
    aten.t_.default,
    aten.as_strided_.default,
    aten.resize_.default,
    aten.resize_as_.default,
    aten.set_.default,
    aten.set_.source_Tensor,
    aten.set_.source_Storage,
    aten.set_.source_Storage_storage_offset,
)
def refused(op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A tensor's own sizes cannot be changed in place: its cut would have to be."""
    raise RuntimeError(
        f"{op}: expected an op that gives a new tensor, got one that changes the shape of its argument in place, "
        "which a DomainTensor cannot: use the one without the underscore"
    )
