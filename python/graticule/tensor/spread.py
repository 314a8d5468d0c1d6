"""A gradient that is the same for every row of a whole grid, kept as the one value that it is.

The gradient of a mean spreads a replicated gradient over the grid and divides each copy. Every rank would do so for the
whole grid, and then keep its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

aten = torch.ops.aten


class Spread(Tensor):
    """`value`, expanded to `shape` where it is asked for."""

    value: Tensor

    @staticmethod
    def __new__(cls: type[Spread], value: Tensor, shape: Sequence[int] | None = None) -> Spread:  # noqa: D102
        sizes = tuple(value.shape if shape is None else shape)
        result = Tensor._make_wrapper_subclass(
            cls, sizes, strides=value.expand(sizes).stride(), dtype=value.dtype, device=value.device
        )
        result.value = value
        return result

    def __init__(self, value: Tensor, shape: Sequence[int] | None = None) -> None:
        """See __new__."""

    def expanded(self) -> Tensor:
        """The plain tensor, a view of the value."""
        return self.value.expand(tuple(self.shape))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # noqa: D102
        cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = args[0]
        if type(given) is cls and not kwargs:
            if func is aten.expand.default and given.value.shape == given.shape:
                return cls(given.value, [size if size >= 0 else given.shape[d] for d, size in enumerate(args[1])])
            if func is aten.unsqueeze.default and given.value.shape == given.shape:
                return cls(func(given.value, args[1]))
            if func in (aten.div.Scalar, aten.mul.Scalar, aten.detach.default, aten.alias.default):
                return cls(func(given.value, *args[1:]), given.shape)
        args, kwargs = pytree.tree_map(lambda t: t.expanded() if type(t) is cls else t, (args, kwargs))
        return func(*args, **kwargs)

    __torch_function__: Callable[..., Any] = torch._C._disabled_torch_function_impl


def spread(gradients: Any) -> Any:
    """For the gradients that a mean's backward is given, before it runs, where its own gradient is not asked for."""
    if torch.is_grad_enabled():
        return gradients
    return tuple(Spread(g) if type(g) is Tensor else g for g in gradients)


def plain(gradient: Any) -> Any:
    """What `spread` kept, as a plain tensor."""
    return gradient.expanded() if type(gradient) is Spread else gradient
