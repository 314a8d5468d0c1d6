"""Backward passes of activations that are pointwise and have no tag that says so."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import pointwise

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


@rule(aten.log_sigmoid_backward.default)
def log_sigmoid_backward(op: Any, grad: Any, x: Any, buffer: Any) -> Any:
    """Without the buffer, whose shape depends on the device."""
    return aten.mul.Tensor(grad, aten.sigmoid.default(aten.neg.default(x)))
