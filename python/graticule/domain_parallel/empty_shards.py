"""Convolutions that stay as they are, on shards of no rows.

A convolution that is local on any cut needs no cut layer, but torch refuses an input of no rows. Such a shard is lent a
row of zeros on its way in, which is taken away on its way out: the graph stays whole, and the gradients are those of no
rows. One that was changed since, and mixes rows now, is an error.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import Tensor, nn

from graticule.domain_parallel import layers
from graticule.domain_parallel.borrowed import cut_dimension


class _Lent(threading.local):
    """The dimension along which each module's input was lent a row: hooks between the two may put another input."""

    def __init__(self) -> None:
        self.dims: dict[int, int] = {}


_lent = _Lent()


def is_local_on_any_cut(module: Any, shard_dim: int) -> bool:
    """Whether a convolution makes each row from that row alone."""
    i = cut_dimension(shard_dim, len(module.kernel_size) + 2, "convert_to_domain_parallel") - 2
    before, after = layers.conv_padding(module)
    stride, more = (layers.conv_option(module, name)[i] for name in ("stride", "output_padding"))
    return layers.conv_kernel(module)[i] == 1 and stride == 1 and before[i] == after[i] == more == 0


def _refuse_changed(module: Any, shard_dim: int) -> None:
    # Traced code cannot ask a weight whether it is yet to be made.
    if torch.compiler.is_compiling() or is_local_on_any_cut(module, shard_dim):
        return
    name = type(module).__name__
    raise ValueError(
        f"{name}: expected kernel and stride of 1 and no padding along the cut, as when convert_to_domain_parallel "
        f"left it as it was, got {module} with a weight of {list(layers.conv_kernel(module))}; convert the model again"
    )


def _with_input(args: tuple, kwargs: dict[str, Any], x: Tensor) -> tuple[tuple, dict[str, Any]]:
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "input": x})


def _lend_row(shard_dim: int, module: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    _refuse_changed(module, shard_dim)
    _lent.dims.pop(id(module), None)
    x = args[0] if args else kwargs["input"]
    batched = len(module.kernel_size) + 2
    dim = cut_dimension(shard_dim, batched, type(module).__name__) - batched + x.dim()
    if x.shape[dim] != 0:
        return None
    shape = list(x.shape)
    shape[dim] = 1
    lent = torch.cat([x, x.new_zeros(shape)], dim)
    if torch.compiler.is_compiling():
        lent._graticule_lent_row = dim  # type: ignore[attr-defined]
    else:
        _lent.dims[id(module)] = dim
    return _with_input(args, kwargs, lent)


def _take_row(module: nn.Module, args: tuple, kwargs: dict[str, Any], y: Tensor) -> Tensor | None:
    if torch.compiler.is_compiling():
        dim = getattr(args[0] if args else kwargs["input"], "_graticule_lent_row", None)
    else:
        dim = _lent.dims.pop(id(module), None)
    return None if dim is None else y.narrow(dim, 0, 0)


def welcome_empty_shards(module: nn.Module, shard_dim: int) -> None:
    """Lets a convolution that is local on any cut take shards of no rows. Its class and parameters stay as they are."""
    if any(hook is _take_row for hook in module._forward_hooks.values()):
        return
    module.register_forward_pre_hook(functools.partial(_lend_row, shard_dim), with_kwargs=True)
    module.register_forward_hook(_take_row, prepend=True, with_kwargs=True)
