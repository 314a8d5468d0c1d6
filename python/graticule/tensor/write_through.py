"""`x[i] += y` where `x[i]` is a copy: rows that every rank has, or rows that were moved between ranks.

Python computes `view = x[i]`, then `view.add_(y)`, then `x[i] = view`. The call in the middle cannot write into the
DomainTensor's memory: the copy remembers what it was taken from, and the call becomes `x[i] = x[i] + y`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graticule.tensor import functions


def _filled(view: Tensor, value: Any) -> Any:
    return torch.zeros_like(view) + value.to(view.dtype) if isinstance(value, Tensor) else torch.full_like(view, value)


def _with_values(view: Tensor, index: Any, values: Any) -> Tensor:
    view[index] = values
    return view


# In-place calls and what computes their result without writing.
_WITHOUT_WRITING: dict[str, Callable[..., Tensor]] = {
    "add_": torch.add,
    "sub_": torch.sub,
    "mul_": torch.mul,
    "div_": torch.div,
    "pow_": torch.pow,
    "floor_divide_": torch.floor_divide,
    "remainder_": torch.remainder,
    "clamp_": torch.clamp,
    "masked_fill_": torch.masked_fill,
    "addcmul_": torch.addcmul,
    "__iand__": torch.bitwise_and,
    "__ior__": torch.bitwise_or,
    "__ixor__": torch.bitwise_xor,
    "zero_": torch.zeros_like,
    "fill_": _filled,
    "copy_": lambda view, src, non_blocking=False: src.to(view.dtype, copy=True),
    "__setitem__": _with_values,
}


def _as_it_is(entry: Any) -> Any:
    """An index's entry that stays when its tensor is written into."""
    return entry.clone() if isinstance(entry, Tensor) else entry


def remember(func: Any, args: Any, view: Any) -> None:
    """Notes on a copy that `func(*args)` took by an index what it was taken from."""
    if getattr(func, "__name__", "") == "__getitem__":
        view._taken_from = (args[0], pytree.tree_map(_as_it_is, args[1]))


def _taken_again(view: Any) -> Any:
    taken_from = getattr(view, "_taken_from", None)
    return view if taken_from is None else _taken_again(taken_from[0])[taken_from[1]]


def write_through(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Calls such a function on such a copy, as it is now, and returns the new values; None for any other call.

    The copy itself is out of date then, as are others of the same rows: reading them is an error, writing is not.
    """
    compute = _WITHOUT_WRITING.get(getattr(func, "__name__", ""))
    taken_from = getattr(args[0], "_taken_from", None) if compute is not None and args else None
    if compute is None or taken_from is None or "out" in kwargs:
        return None
    origin, index = _taken_again(taken_from[0]), taken_from[1]
    # A clone: autograd may keep it, and it would be gone with the write.
    view = origin[index].clone()
    value: Any = compute(view, *args[1:], **kwargs)
    if not hasattr(view, "_cut"):
        with torch._C.DisableTorchFunctionSubclass():
            value = functions.as_whole(value)
    if not torch.can_cast(value.dtype, view.dtype):
        raise RuntimeError(f"result type {value.dtype} can't be cast to the desired output type {view.dtype}")
    value = value.to(view.dtype)
    if value.shape != view.shape:
        value = value.expand(view.shape).clone()
    origin[index] = value
    return value
