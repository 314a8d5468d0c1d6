"""Backward passes that a DomainTensor begins.

What runs in them, such as hooks and what a checkpoint computes again, must see functions of torch as the forward pass
did: these are not called with torch functions off, as others are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge


def _edge(t: Any) -> Any:
    """What stands for a tensor in the graph, and is no tensor, so that nobody asks its class."""
    if isinstance(t, GradientEdge):
        return t
    if not t.requires_grad:
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    return get_gradient_edge(t)


def _begun(output: Any, gradient: Any) -> Any:
    if gradient is not None or not isinstance(output, Tensor) or output.numel() != 1 or output.is_complex():
        return gradient
    return torch.ones_like(output)


def _gradients_of(outputs: Sequence[Any], given: Any) -> list[Any]:
    each = given if isinstance(given, (tuple, list)) else [given] * len(outputs)
    return [_begun(output, gradient) for output, gradient in zip(outputs, each, strict=True)]


def _backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: Any = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Any = None,
) -> None:
    outputs = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    for i, t in enumerate(outputs):
        if isinstance(t, Tensor) and not t.requires_grad:
            raise RuntimeError(f"element {i} of tensors does not require grad and does not have a grad_fn")
    begun = _gradients_of(outputs, grad_variables if grad_tensors is None else grad_tensors)
    if isinstance(inputs, Tensor):
        inputs = [inputs]
    places = None if inputs is None else [_edge(t) for t in inputs]
    torch.autograd.backward([_edge(t) for t in outputs], begun, retain_graph, create_graph, inputs=places)


def _backward_of_one(
    t: Tensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None
) -> None:
    _backward([t], [gradient], retain_graph, create_graph, inputs=inputs)


def _grad(
    outputs: Sequence[Any],
    inputs: Sequence[Any],
    grad_outputs: Any = None,
    retain_graph: Any = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: Any = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    rest = (retain_graph, create_graph, only_inputs, allow_unused or materialize_grads)
    if is_grads_batched:
        with torch._C.DisableTorchFunctionSubclass():
            return torch.autograd.grad(outputs, inputs, grad_outputs, *rest, True, materialize_grads)
    begun = _gradients_of(outputs, grad_outputs)
    found = torch.autograd.grad([_edge(t) for t in outputs], [_edge(t) for t in inputs], begun, *rest)
    if not materialize_grads:
        return found
    return tuple(
        torch.zeros_like(t, requires_grad=create_graph) if gradient is None else gradient
        for t, gradient in zip(inputs, found, strict=True)
    )


backward_passes: dict[Any, Callable[..., Any]] = {
    Tensor.backward: _backward_of_one,
    torch.autograd.backward: _backward,
    torch.autograd.grad: _grad,
}
