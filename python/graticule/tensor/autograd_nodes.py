"""Which module made a node of autograd's graph, for backward to tell whose gradient is at work."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

_KEY = "graticule.module"


def _nodes(values: Any) -> list[Any]:
    found = (t.grad_fn for t in pytree.tree_leaves(values) if isinstance(t, torch.Tensor))
    return [node for node in found if node is not None]


def name(inputs: Any, outputs: Any, module: str) -> None:
    """Names the nodes between a module's inputs and outputs, but those that a module within it has named."""
    seen, ahead = set(_nodes(inputs)), _nodes(outputs)
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        node.metadata.setdefault(_KEY, module)
        ahead += [before for before, _ in node.next_functions]


def in_backward() -> bool:
    """Whether this thread is in a node of a backward pass."""
    return torch._C._current_autograd_node() is not None


def current_name() -> str:
    """The module of the node at work; nothing outside a backward pass and for a node without a name."""
    node = torch._C._current_autograd_node()
    metadata: Any = {} if node is None else node.metadata
    return metadata.get(_KEY, "")
