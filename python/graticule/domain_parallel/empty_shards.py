"""Convolutions that stay as they are, on shards of no rows.

A convolution that is local on any cut needs no cut layer, but torch refuses an input of no rows. Such a shard is lent a
row of zeros on its way in, which is taken away on its way out: the graph stays whole, and the gradients are those of no
rows.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from graticule.domain_parallel.borrowed import cut_dimension


def _lend_row(shard_dim: int, module: Any, args: tuple) -> tuple | None:
    x = args[0]
    batched = len(module.kernel_size) + 2
    dim = cut_dimension(shard_dim, batched, type(module).__name__) - batched + x.dim()
    if x.shape[dim] != 0:
        return None
    shape = list(x.shape)
    shape[dim] = 1
    lent = torch.cat([x, x.new_zeros(shape)], dim)
    lent._graticule_lent_row = dim  # type: ignore[attr-defined]
    return (lent, *args[1:])


def _take_row(module: nn.Module, args: tuple, y: Tensor) -> Tensor | None:
    dim = getattr(args[0], "_graticule_lent_row", None)
    return None if dim is None else y.narrow(dim, 0, 0)


def welcome_empty_shards(module: nn.Module, shard_dim: int) -> None:
    """Lets a convolution that is local on any cut take shards of no rows. Its class and parameters stay as they are."""
    if any(hook is _take_row for hook in module._forward_hooks.values()):
        return
    module.register_forward_pre_hook(functools.partial(_lend_row, shard_dim))
    module.register_forward_hook(_take_row, prepend=True)
