"""Embeddings of cut indices: every rank has the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.support import told_to_all

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(op: Any, weight: Tensor, indices: Tensor, *args: Any) -> Any:
    """Each rank looks up its own."""
    if isinstance(weight, DomainTensor):
        return NotImplemented
    assert isinstance(indices, DomainTensor)
    with told_to_all(indices._cut.domain):
        return DomainTensor(op(weight, indices._local, *args), indices._cut)


@rule(aten.embedding_dense_backward.default)
def embedding_backward(
    op: Any, grad: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Any:
    """A sum over all indices."""
    if scale_grad_by_freq:
        return NotImplemented
    ndim = grad.dim()
    if isinstance(indices, DomainTensor):
        cut = indices._cut
    else:
        assert isinstance(grad, DomainTensor)
        cut = grad._cut
    own = own_part(grad, cut, ndim).contiguous()
    if cut.dim == ndim - 1:
        return DomainTensor(op(own, indices, num_weights, padding_idx, False), cut.at(1))
    part = op(own, own_part(indices, cut, ndim - 1), num_weights, padding_idx, False)
    return moves.reduce_sum(part, cut.domain)
