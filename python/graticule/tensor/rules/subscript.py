"""x[index] = value, above autograd: an integer for the cut dimension must not become a copy of the row."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import functions
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.index_entries import entries_of, is_integer


def write(x: Any, index: Any, value: Any) -> None:
    """What Tensor.__setitem__ does: slices are views of the rank's own memory, so what is written there stays."""
    if not isinstance(x, DomainTensor):
        Tensor.__setitem__(x, index, value)
        return
    entries = entries_of(index)
    place = _integer_of_cut_dimension(x, entries)
    if place is None:
        Tensor.__setitem__(x, index, value)
        return
    if not all(entry is None or entry is Ellipsis or isinstance(entry, (int, slice)) for entry in entries) or any(
        isinstance(entry, bool) for entry in entries
    ):
        raise RuntimeError(
            f"__setitem__: rank {x._cut.domain.rank}: expected integers and slices beside the integer {entries[place]} "
            "for the cut dimension, got index tensors: write by a slice of one row, or use torch.where"
        )
    size, row = x.shape[x._cut.dim], int(entries[place])
    if not -size <= row < size:
        raise IndexError(f"index {row} is out of bounds for dimension {x._cut.dim} with size {size}")
    entries[place] = slice(row % size, row % size + 1)
    target: Any = Tensor.__getitem__(x, tuple(entries))
    if isinstance(value, Tensor):
        target.copy_(_with_row(value, target.dim(), target._cut.dim))
    else:
        target.fill_(value)


def _with_row(value: Tensor, ndim: int, dim: int) -> Tensor:
    """The value with a dimension of one row at `dim` of `ndim`, where it has as many dimensions."""
    while value.dim() > ndim - 1 and value.shape[0] == 1:
        value = value.squeeze(0)
    after = ndim - 1 - dim
    return value.unsqueeze(value.dim() - after) if value.dim() > after else value


def _integer_of_cut_dimension(x: DomainTensor, entries: list[Any]) -> int | None:
    """The place among entries of an integer for the cut dimension; all integers become those of Python."""
    for i, entry in enumerate(entries):
        if is_integer(entry):
            entries[i] = operator.index(entry)
    consumed = [_dimensions(entry) for entry in entries]
    dim = 0
    for i, entry in enumerate(entries):
        if entry is Ellipsis:
            dim += x.dim() - sum(consumed)
            continue
        if dim == x._cut.dim and isinstance(entry, int) and not isinstance(entry, bool):
            return i
        dim += consumed[i]
    return None


def _dimensions(entry: Any) -> int:
    if entry is None or entry is Ellipsis or isinstance(entry, bool):
        return 0
    if isinstance(entry, (list, tuple)) or not isinstance(entry, Tensor) and bool(getattr(entry, "ndim", 0)):
        # Lists and arrays of NumPy's are index tensors as well; torch itself says what is wrong with others.
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            entry = torch.as_tensor(entry)
    if isinstance(entry, Tensor) and entry.dtype in (torch.bool, torch.uint8):
        return entry.dim()
    return 1


functions.replaced[Tensor.__setitem__] = write
