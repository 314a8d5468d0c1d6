"""What the entries of a subscript are, x[entry, entry, ...]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_integer(entry: Any) -> bool:
    """Whether torch takes the entry for an integer: integer tensors without dimensions are, truth values are not."""
    if isinstance(entry, Tensor):
        if entry.dim() > 0 or hasattr(entry, "_cut"):
            return False
        return entry.dtype not in (torch.bool, torch.uint8) and not entry.dtype.is_floating_point
    return hasattr(entry, "__index__") and not isinstance(entry, bool) and not getattr(entry, "ndim", 0)


def stands_for_a_tuple(index: Any) -> bool:
    """Whether torch takes a list for a tuple of entries: by what is in it, as NumPy once did."""
    if not isinstance(index, list) or len(index) >= 32:
        return False
    return any(entry is None or entry is Ellipsis or isinstance(entry, (slice, Tensor, list, tuple)) for entry in index)


def entries_of(index: Any) -> list[Any]:
    """The entries of a subscript."""
    return list(index) if isinstance(index, tuple) or stands_for_a_tuple(index) else [index]


def takes_a_view(index: Any) -> bool:
    """Whether x[index] shares the memory of x."""
    return all(
        entry is None or entry is Ellipsis or isinstance(entry, slice) or is_integer(entry)
        for entry in entries_of(index)
    )
