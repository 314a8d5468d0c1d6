"""gather and scatter: rows that lie beside each other in all arguments; along the cut dimension by whole arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.support import told_to_all, wrapped

aten = torch.ops.aten


def _common_cut(dim: int, tensors: list[Tensor]) -> Cut | None:
    """The first cut along another dimension than `dim`, of which all have the same rows."""
    for t in tensors:
        if isinstance(t, DomainTensor) and t._cut.dim != dim:
            rows = t._cut.dim
            return (
                t._cut
                if all(other.dim() == t.dim() and other.shape[rows] == t.shape[rows] for other in tensors)
                else None
            )
    return None


@rule(aten.gather.default)
def gather(op: Any, x: Any, dim: int, index: Any, **options: Any) -> Any:
    """Each rank's rows of the index from the same rows of x; or any rows of an x that is whole."""
    if x.dim() == 0 or index.dim() != x.dim():
        return NotImplemented
    dim = wrapped(dim, x.dim())
    cut = _common_cut(dim, [index, x])
    if cut is not None:
        parts = own_part(x, cut, x.dim()), own_part(index, cut, x.dim())
        with told_to_all(cut.domain):
            return DomainTensor(op(parts[0], dim, parts[1], **options), cut)
    if not isinstance(x, DomainTensor) and isinstance(index, DomainTensor) and index._cut.dim == dim:
        with told_to_all(index._cut.domain):
            return DomainTensor(op(x, dim, index._local, **options), index._cut)
    return NotImplemented


@rule(aten.scatter.src, aten.scatter.value, aten.scatter.reduce, aten.scatter.value_reduce, aten.scatter_add.default)
def scatter(op: Any, x: Any, dim: int, index: Any, source: Any, **options: Any) -> Any:
    """Each rank's rows of the index and the source into the same rows of x."""
    parts = _parts(x, dim, index, source)
    if parts is None:
        return NotImplemented
    cut, (own, *rest) = parts
    with told_to_all(cut.domain):
        return DomainTensor(op(own, dim, *rest, **options), cut)


@rule(aten.scatter_.src, aten.scatter_.value, aten.scatter_add_.default)
def scatter_in_place(op: Any, x: Any, dim: int, index: Any, source: Any) -> Any:
    """Each rank's rows of the index and the source into the same rows of x."""
    parts = _parts(x, dim, index, source)
    if parts is None or not isinstance(x, DomainTensor) or x._cut != parts[0]:
        return NotImplemented
    moves.refuse_write(op, x)
    with told_to_all(x._cut.domain):
        op(x._local, dim, *parts[1][1:])
    return x


def _parts(x: Any, dim: int, index: Any, source: Any) -> tuple[Cut, list[Any]] | None:
    if x.dim() == 0:
        return None
    given = [x, index, source]
    tensors = [t for t in given if isinstance(t, Tensor)]
    cut = _common_cut(wrapped(dim, x.dim()), tensors)
    if cut is None:
        return None
    return cut, [own_part(t, cut, x.dim()) if isinstance(t, Tensor) else t for t in given]
