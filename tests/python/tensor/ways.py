"""Other ways to call an op than by its function: in place, into a tensor that is given, in inference mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Call = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Way:
    """`call_of` makes of an op what is called in its place, or None where the op has no such way.

    `may_fail`: whether it may be an error uncut. `refused`: what the error of a cut call must tell, by the op's name.
    """

    call_of: Callable[[Any], Call | None]
    gradients: bool = True
    may_fail: bool = False
    refused: dict[str, str] = dataclasses.field(default_factory=dict)


def _in_place(op: Any) -> Call | None:
    if op.inplace_variant is None:
        return None

    def call(first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # In memory that no leaf has.
        own = first * 1 if first.is_floating_point() or first.is_complex() else first.clone()
        op.inplace_variant(own, *args, **kwargs)
        # What was written into, not what was returned.
        return own

    return call


def _out(op: Any) -> Call | None:
    if not op.supports_out:
        return None

    def call(*args: Any, **kwargs: Any) -> Any:
        into = pytree.tree_map_only(Tensor, torch.zeros_like, op.op(*args, **kwargs))
        into = tuple(into) if isinstance(into, (tuple, list)) else into
        op.op(*args, out=into, **kwargs)
        return into

    return call


def _inference(op: Any) -> Call | None:
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            return op.op(*args, **kwargs)

    return call


_CHANGE_SHAPES = "squeeze squeeze.multiple unsqueeze transpose t as_strided as_strided.partial_views".split()
_CHANGES_SHAPE = "changes the shape of its argument in place"

DIRECTLY = Way(lambda op: op.op)
WAYS = {
    # Where the result has another shape or type.
    "in place": Way(_in_place, may_fail=True, refused=dict.fromkeys(_CHANGE_SHAPES, _CHANGES_SHAPE)),
    # Some have no such argument after all, or give no tensors alone.
    "out": Way(_out, gradients=False, may_fail=True, refused={"lu": _CHANGES_SHAPE}),
    "inference mode": Way(_inference, gradients=False),
}
