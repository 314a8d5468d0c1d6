"""Indexing by tensors. The index tensors are the same on every rank: from them each knows who has what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.index_routes import IndexLayout, IndexRoutes, checked
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.result_cuts import largest, with_interval
from graticule.tensor.rules.support import told_to_all, whole, wrapped

aten = torch.ops.aten
_MASKS = (torch.bool, torch.uint8)


def _by_number(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The indices whole and as numbers: a mask is the numbers of what it has."""
    result: list[Tensor | None] = []
    for index in indices:
        if index is None:
            result.append(None)
        elif index.dtype in _MASKS:
            result += whole(index).nonzero().unbind(1)
        elif index.dtype in (torch.int64, torch.int32):
            result.append(whole(index).long())
        else:
            raise IndexError(f"tensors used as indices must be long, int, byte or bool tensors, got {index.dtype}")
    return result


def _along(op: Any, dim: int, index: Tensor) -> list[Tensor | None]:
    """Indices of one dimension, as numbers."""
    if index.dtype not in (torch.int64, torch.int32):
        raise RuntimeError(f"{op}: Expected dtype int32 or int64 for index, got {index.dtype}")
    return [None] * dim + [whole(index).long().view(-1)]


def _do_masks_fit(shape: Sequence[int], indices: Sequence[Tensor | None]) -> bool:
    dim = 0
    for index in indices:
        if index is not None and index.dtype in _MASKS:
            if index.dim() == 0 or list(index.shape) != list(shape[dim : dim + index.dim()]):
                return False
            dim += index.dim()
        else:
            dim += 1
    return dim <= len(shape)


@rule(aten.index.Tensor, aten._unsafe_index.Tensor)
def index(op: Any, x: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """Rows of the cut dimension travel to where the result has them; else each rank indexes its own."""
    if not _do_masks_fit(x.shape, indices) or all(i is None for i in indices):
        return NotImplemented
    if not isinstance(x, DomainTensor):
        if any(i is not None and i.dtype in _MASKS for i in indices):
            return op(x, [whole(i) for i in indices])
        layout = IndexLayout(x.shape, indices)
        cut = largest(indices)._cut
        cut = cut.at(cut.dim + len(layout.broadcast) - largest(indices).dim())
        if layout.broadcast[cut.dim] != cut.size:
            return op(x, [whole(i) for i in indices])
        parts = [None if i is None else own_part(i, cut, len(layout.broadcast)) for i in indices]
        with told_to_all(cut.domain):
            return DomainTensor(op(x, parts), cut.at(layout.place + cut.dim))
    return take(x, checked(x.shape, _by_number(indices)))


def take(x: DomainTensor, indices: Sequence[Tensor | None]) -> Tensor:
    """x[indices]."""
    layout = IndexLayout(x.shape, indices)
    if x._cut.dim not in layout.indexed:
        return DomainTensor(aten.index.Tensor(x._local, indices), x._cut.at(layout.of_kept(x._cut.dim)))
    x = with_interval(x)
    routes = IndexRoutes(x._cut, layout, indices)
    result = routes.to_result(aten.index.Tensor(x._local, routes.local_indices))
    if layout.broadcast:
        taken = DomainTensor(result, routes.cut)
        # The rows arrive one after the other, whatever lies between them in memory uncut.
        taken._strides_are_guessed = routes.cut.domain.size > 1 or not result.is_contiguous()
        return taken
    return moves.replicate(result, routes.cut).squeeze(layout.place)


@rule(aten.index_select.default)
def index_select(op: Any, x: Tensor, dim: int, index: Tensor) -> Any:
    """As x[:, index]."""
    if x.dim() == 0 or index.dim() > 1:
        return NotImplemented
    dim = wrapped(dim, x.dim())
    if not isinstance(x, DomainTensor):
        assert isinstance(index, DomainTensor)
        with told_to_all(index._cut.domain):
            return DomainTensor(op(x, dim, index._local), index._cut.at(dim))
    if dim != x._cut.dim:
        return DomainTensor(op(x._local, dim, whole(index)), x._cut)
    return take(x, checked(x.shape, _along(op, dim, index), negative=False))


@rule(aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
def index_put(
    op: Any,
    x: Tensor,
    indices: Sequence[Tensor | None],
    values: Tensor,
    accumulate: bool = False,
    unsafe: bool = False,
) -> Any:
    """Values travel to who has the rows."""
    if not _do_masks_fit(x.shape, indices) or all(i is None for i in indices):
        return NotImplemented
    in_place = op._schema.is_mutable
    if not isinstance(x, DomainTensor):
        if in_place:
            return NotImplemented
        if not isinstance(values, DomainTensor):
            return op(x, [whole(i) for i in indices], values, accumulate)
        numbers = _by_number(indices)
        return put(_cut_like(x, IndexLayout(x.shape, numbers), values), checked(x.shape, numbers), values, accumulate)
    if in_place:
        moves.refuse_write(op, x)
        target = x
    else:
        target = DomainTensor(x._local.clone(), x._cut)
    if values.numel() == 1 and len(indices) == 1 and indices[0] is not None and indices[0].dtype == torch.bool:
        mask = indices[0]
        part = own_part(mask, x._cut, mask.dim()) if x._cut.dim < mask.dim() else whole(mask)
        aten.index_put_.default(target._local, [part], whole(values), accumulate)
        return target
    return put(target, checked(x.shape, _by_number(indices)), values, accumulate)


def _cut_like(x: Tensor, layout: IndexLayout, values: DomainTensor) -> DomainTensor:
    """A copy of a plain x, cut so that values stay where they are if they can."""
    dim = layout.indexed[0]
    cut = Cut.balanced(values.domain, dim, x.shape[dim])
    from_end = len(layout.shape) - values.dim()
    for kept in layout.kept:
        if layout.of_kept(kept) == values._cut.dim + from_end and x.shape[kept] == values._cut.size:
            cut = values._cut.at(kept)
            break
    return DomainTensor(cut.part_of(x).clone(), cut)


def put(x: DomainTensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool) -> DomainTensor:
    """x[indices] = values, or += where they accumulate; in x's memory."""
    layout = IndexLayout(x.shape, indices)
    torch.broadcast_shapes(tuple(values.shape), tuple(layout.shape))
    ndim = len(layout.shape)
    if x._cut.dim not in layout.indexed:
        cut = x._cut.at(layout.of_kept(x._cut.dim))
        aten.index_put_.default(x._local, indices, own_part(values, cut, ndim), accumulate)
        return x
    own = with_interval(x)
    routes = IndexRoutes(own._cut, layout, indices)
    shape = (
        list(layout.shape) if layout.broadcast else [*layout.shape[: layout.place], 1, *layout.shape[layout.place :]]
    )
    if isinstance(values, DomainTensor) and layout.broadcast:
        shape[routes.cut.dim] = routes.cut.own
        arrived = routes.to_owners(own_part(values, routes.cut, ndim).expand(shape))
    else:
        flat = whole(values)
        after = ndim - layout.place
        if not layout.broadcast and flat.dim() >= after:
            flat = flat.unsqueeze(flat.dim() - after)
        flat = flat.expand(shape).flatten(layout.place, layout.place + max(len(layout.broadcast), 1) - 1)
        arrived = flat.index_select(layout.place, routes.mine)
    aten.index_put_.default(own._local, routes.local_indices, arrived, accumulate)
    if own._local is not x._local:
        x._local.copy_(moves.recut(own._local, own._cut, x._cut))
    return x


@rule(aten.index_add.default, aten.index_add_.default, aten.index_copy.default, aten.index_copy_.default)
def index_add(op: Any, x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Any:
    """As x[:, index] += source, or = source."""
    in_place = op._schema.is_mutable
    adds = "index_add" in op._schema.name
    if x.dim() == 0 or source.dim() != x.dim() or index.dim() > 1 or in_place and not isinstance(x, DomainTensor):
        return NotImplemented
    dim = wrapped(dim, x.dim())
    expected = list(x.shape)
    expected[dim] = index.numel()
    if list(source.shape) != expected:
        return NotImplemented
    if not isinstance(x, DomainTensor) and not isinstance(source, DomainTensor):
        return op(x, dim, whole(index), source, alpha=alpha) if adds else op(x, dim, whole(index), source)
    numbers = _along(op, dim, index)
    if in_place:
        moves.refuse_write(op, x)
        target: Any = x
    elif isinstance(x, DomainTensor):
        target = DomainTensor(x._local.clone(), x._cut)
    else:
        assert isinstance(source, DomainTensor)
        target = _cut_like(x, IndexLayout(x.shape, numbers), source)
    if adds and alpha != 1:
        source = source * alpha
    return put(target, checked(x.shape, numbers, negative=False), source, adds)


@rule(
    aten.index_fill.int_Scalar,
    aten.index_fill.int_Tensor,
    aten.index_fill_.int_Scalar,
    aten.index_fill_.int_Tensor,
)
def index_fill(op: Any, x: Tensor, dim: int, index: Tensor, value: Any) -> Any:
    """As x[:, index] = value."""
    if x.dim() == 0 or not isinstance(x, DomainTensor) or index.dim() > 1 or isinstance(value, Tensor) and value.dim():
        return NotImplemented
    dim = wrapped(dim, x.dim())
    if op._schema.is_mutable:
        moves.refuse_write(op, x)
        target = x
    else:
        target = DomainTensor(x._local.clone(), x._cut)
    filling = torch.as_tensor(whole(value), dtype=x.dtype, device=x._local.device)
    return put(target, checked(x.shape, _along(op, dim, index)), filling, False)
