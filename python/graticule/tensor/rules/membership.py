"""Where values stand in a list, or whether they are in it: the list comes to every rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.support import whole

aten = torch.ops.aten


@rule(aten.bucketize.Tensor)
def bucketize(op: Any, x: Tensor, boundaries: Tensor, **options: Any) -> Any:
    """The bucket of each value."""
    return _of_each(op, x, boundaries, **options)


@rule(aten.isin.Tensor_Tensor)
def isin(op: Any, x: Tensor, values: Tensor, **options: Any) -> Any:
    """Whether each value is among others."""
    return _of_each(op, x, values, **options)


def _of_each(op: Any, x: Tensor, values: Tensor, **options: Any) -> Any:
    values = whole(values)
    if not isinstance(x, DomainTensor):
        return op(x, values, **options)
    return DomainTensor(op(x._local, values, **options), x._cut)
