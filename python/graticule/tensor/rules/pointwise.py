"""Pointwise ops, by their tag: each rank works on its own rows."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.rules.support import told_to_all, whole


def pointwise(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows of the result from the same rows of every argument; a plain argument that has all rows gives the rank's own.

    Arguments that are cut otherwise are re-cut: to what most of the values have.
    """
    if op._schema.is_mutable:
        return _in_place(op, args, kwargs)
    at_once = _parts_at_once(args, kwargs)
    if at_once is not None:
        own, its_cut = at_once
        return _of_parts(_call(op, its_cut, own, kwargs), its_cut)
    flat, spec = pytree.tree_flatten((args, kwargs))
    tensors = [t for t in flat if isinstance(t, Tensor)]
    ndim = max(t.dim() for t in tensors)
    cut = _common_cut(tensors, ndim)
    if cut is None:
        new_args, new_kwargs = pytree.tree_unflatten([whole(t) for t in flat], spec)
        return op(*new_args, **new_kwargs)
    parts = [own_part(t, cut, ndim) if isinstance(t, Tensor) else t for t in flat]
    new_args, new_kwargs = pytree.tree_unflatten(parts, spec)
    return _of_parts(_call(op, cut, new_args, new_kwargs), cut)


def _parts_at_once(args: Any, kwargs: Any) -> tuple[list[Any], Cut] | None:
    """The arguments' parts where nothing moves or is narrowed: DomainTensors cut alike, and values without their rows.

    None elsewhere. It spares the common case the search of nested arguments, half of such an op's time.
    """
    first: DomainTensor | None = None
    for t in args:
        if isinstance(t, DomainTensor):
            if first is None:
                first = t
            elif (t._cut is not first._cut and t._cut != first._cut) or t.dim() != first.dim():
                return None
        elif isinstance(t, (list, tuple)):
            return None
    if first is None or (len(args) > 1 and first._cut.size == 1) or any(isinstance(t, Tensor) for t in kwargs.values()):
        return None
    from_end = first.dim() - first._cut.dim
    parts: list[Any] = []
    for t in args:
        if isinstance(t, DomainTensor):
            t = t._local
        elif isinstance(t, Tensor) and (t.dim() > first.dim() or (t.dim() >= from_end and t.shape[-from_end] != 1)):
            return None
        parts.append(t)
    return parts, first._cut


def _of_parts(result: Any, cut: Cut) -> Any:
    return DomainTensor(result, cut) if isinstance(result, Tensor) else tuple(DomainTensor(t, cut) for t in result)


@functools.cache
def _writes_into_first_alone(op: Any) -> bool:
    """And not into what it is given for its results, by whatever name."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in op._schema.arguments]
    return written[0] and not any(written[1:])


def _in_place(op: Any, args: Any, kwargs: Any) -> Any:
    if not _writes_into_first_alone(op) or not args or not isinstance(args[0], Tensor):
        return NotImplemented
    target = args[0]
    rest = args[1:]
    if not isinstance(target, DomainTensor):
        new_args, new_kwargs = pytree.tree_map(whole, (rest, kwargs))
        op(target, *new_args, **new_kwargs)
        return target
    moves.refuse_write(op, target)
    at_once = _parts_at_once(args, kwargs)
    if at_once is not None:
        _call(op, target._cut, at_once[0], kwargs)
        return target
    flat, spec = pytree.tree_flatten((rest, kwargs))
    parts = [own_part(t, target._cut, target.dim()) if isinstance(t, Tensor) else t for t in flat]
    new_args, new_kwargs = pytree.tree_unflatten(parts, spec)
    _call(op, target._cut, (target._local, *new_args), new_kwargs)
    return target


@functools.cache
def _fails_by_value(op: Any) -> bool:
    """Whether it does for whole numbers: a division by zero."""
    return op._schema.name.partition("::")[2].rstrip("_") in ("remainder", "fmod", "div", "floor_divide")


def _call(op: Any, cut: Cut, args: Any, kwargs: Any) -> Any:
    if not _fails_by_value(op):
        return op(*args, **kwargs)
    with told_to_all(cut.domain):
        return op(*args, **kwargs)


def _common_cut(tensors: list[Tensor], ndim: int) -> Cut | None:
    """The cut that most values have of the arguments whose rows the result has; None where no result is cut."""
    values: dict[Cut, int] = {}
    for t in tensors:
        if isinstance(t, DomainTensor) and not _is_repeated(t, tensors, ndim):
            cut = t._cut.at(t._cut.dim + ndim - t.dim())
            values[cut] = values.get(cut, 0) + t.numel()
    return max(values, key=lambda cut: values[cut]) if values else None


def _is_repeated(t: DomainTensor, tensors: list[Tensor], ndim: int) -> bool:
    """Whether the cut dimension has one row, of which broadcasting makes several."""
    if t._cut.size != 1:
        return False
    from_end = t.dim() - t._cut.dim
    return any(other.dim() >= from_end and other.shape[-from_end] != 1 for other in tensors)


def own_part(t: Tensor, cut: Cut, ndim: int) -> Tensor:
    """What a rank needs of an argument, cut in any way or whole, for its part of a result of `ndim` dimensions.

    RuntimeError, on every rank, where the argument has neither all rows nor one: not by chance as many as this rank's.
    """
    dim = cut.dim - (ndim - t.dim())
    if isinstance(t, DomainTensor):
        own = t._cut
        if dim == own.dim and (own is cut or (own.offsets == cut.offsets and own == cut.at(dim))):
            return t._local
        if dim < 0 or t.shape[dim] != cut.size:
            _check_broadcast(t, dim, cut)
            return whole(t)
        return moves.recut(t._local, own, cut.at(dim))
    if dim < 0 or t.shape[dim] != cut.size:
        _check_broadcast(t, dim, cut)
        return t
    return cut.at(dim).part_of(t)


def _check_broadcast(t: Tensor, dim: int, cut: Cut) -> None:
    if dim < 0 or t.shape[dim] == 1:
        return
    why = (
        f"beside a DomainTensor cut along {cut.size} rows: rank {cut.domain.rank} of {cut.domain.size}: expected a "
        f"tensor with {cut.size} rows or one in dimension {dim}, those of the whole grid, got {list(t.shape)}"
    )
    if t.shape[dim] == cut.own:
        # Other ranks have other numbers of rows, and may see nothing wrong.
        why += "; this rank's own rows alone make a DomainTensor by graticule.from_local"
        torch.ops.graticule.poison(cut.domain.group_name, why)
    raise RuntimeError(why)
