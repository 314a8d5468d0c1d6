"""Values that Python asks for: the same answer on every rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.support import whole

aten = torch.ops.aten


@rule(aten.equal.default)
def equal(op: Any, x: Tensor, y: Tensor) -> bool:
    """Whether shapes and all values are equal."""
    if x.shape != y.shape:
        return False
    return _all(aten.eq.Tensor(x, y))


@rule(aten.allclose.default)
def allclose(op: Any, x: Tensor, y: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all values are close."""
    return _all(torch.isclose(x, y, rtol, atol, equal_nan))


def _all(holds: Tensor) -> bool:
    return bool(aten.all.default(holds).item())


@rule(aten._local_scalar_dense.default)
def scalar(op: Any, x: DomainTensor) -> Any:
    """The value of a tensor that has one, which one rank holds."""
    return op(whole(x))
