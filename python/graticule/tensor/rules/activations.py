"""Activations, and backward passes of others, that are pointwise along the cut and have no tag that says so."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import own_part, pointwise
from graticule.tensor.rules.support import wrapped

aten = torch.ops.aten


@rule(
    aten._prelu_kernel_backward.default,
    aten.elu_backward.default,
    aten.hardshrink_backward.default,
    aten.hardsigmoid_backward.default,
    aten.hardswish_backward.default,
    aten.hardtanh_backward.default,
    aten.leaky_relu_backward.default,
    aten.mish_backward.default,
    aten.softshrink_backward.default,
    aten.softplus_backward.default,
)
def activation_backward(op: Any, grad: Any, *args: Any, **kwargs: Any) -> Any:
    """Row by row; prelu's weight gets a gradient of each element, which autograd adds up."""
    return pointwise(op, grad, *args, **kwargs)


@rule(aten.log_sigmoid_forward.default)
def log_sigmoid(op: Any, x: DomainTensor) -> tuple[Any, Any]:
    """And what backward is to know, of x's shape on a CPU, nothing on a GPU."""
    result, kept = op(x._local)
    return DomainTensor(result, x._cut), DomainTensor(kept, x._cut) if x.device.type == "cpu" else kept


@rule(aten.log_sigmoid_backward.default)
def log_sigmoid_backward(op: Any, grad: Any, x: Any, kept: Any) -> Any:
    """By what forward kept, where that is of x's shape."""
    if isinstance(kept, DomainTensor):
        return pointwise(op, grad, x, kept)
    return aten.mul.Tensor(grad, aten.sigmoid.default(aten.neg.default(x)))


@rule(aten.glu.default)
def glu(op: Any, x: DomainTensor, dim: int = -1) -> Any:
    """Halves of another dimension than the cut one meet on their rank."""
    return NotImplemented if wrapped(dim, x.dim()) == x._cut.dim else DomainTensor(op(x._local, dim), x._cut)


@rule(aten.glu_backward.default)
def glu_backward(op: Any, grad: Any, x: Any, dim: int) -> Any:
    """The gradients of both halves."""
    if not isinstance(x, DomainTensor) or wrapped(dim, x.dim()) == x._cut.dim:
        return NotImplemented
    return DomainTensor(op(own_part(grad, x._cut, x.dim()), x._local, dim), x._cut)
