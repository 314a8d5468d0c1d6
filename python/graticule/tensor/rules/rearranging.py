"""Rows in another order or several times over, and triangles."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.reshape import reshape
from graticule.tensor.rules.result_cuts import raise_as_torch, with_interval
from graticule.tensor.rules.support import wrapped

aten = torch.ops.aten


@rule(aten.roll.default)
def roll(op: Any, x: DomainTensor, shifts: Any, dims: Any = ()) -> Any:
    """Rows that leave one end of the cut dimension come in at the other."""
    shifts = list(shifts) if isinstance(shifts, (list, tuple)) else [shifts]
    dims = list(dims) if isinstance(dims, (list, tuple)) else [dims]
    if not dims and len(shifts) == 1:
        if x.numel() == 0:
            return NotImplemented
        flat: Any = reshape(x, (x.numel(),))
        back: Any = reshape(roll(op, flat, shifts, 0), x.shape)
        return DomainTensor(moves.recut(back._local, back._cut, x._cut), x._cut)
    if len(shifts) != len(dims):
        raise_as_torch(op, x, shifts, dims)
    cut = x._cut
    pairs = [(shift, wrapped(d, x.dim())) for shift, d in zip(shifts, dims, strict=True)]
    along = sum(shift for shift, d in pairs if d == cut.dim)
    across = [(shift, d) for shift, d in pairs if d != cut.dim]
    local = x._local
    if across and local.numel():
        local = op(local, [shift for shift, _ in across], [d for _, d in across])
    if cut.size == 0 or along % cut.size == 0:
        return DomainTensor(local if local is not x._local else local.clone(), cut)
    x = with_interval(DomainTensor(local, cut))
    cut = x._cut
    shift = along % cut.rows
    shift -= cut.rows if 2 * shift > cut.rows else 0
    begins = [offset - shift for offset in cut.offsets]
    return DomainTensor(moves.rows(x._local, cut, begins[:-1], begins[1:], "circular"), cut)


@rule(aten.flip.default)
def flip(op: Any, x: DomainTensor, dims: Any) -> DomainTensor:
    """Along the cut dimension each rank takes the rows that mirror its own."""
    places = {wrapped(d, x.dim()) for d in dims}
    if len(places) < len(dims):
        raise_as_torch(op, x, dims)
    if x._cut.dim in places:
        x = with_interval(x)
        cut = x._cut
        begins = [cut.rows - offset for offset in cut.offsets]
        local = moves.rows(x._local, cut, begins[1:], begins[:-1])
        return DomainTensor(op(local, dims), cut)
    return DomainTensor(op(x._local, dims), x._cut)


@rule(aten.repeat.default)
def repeat(op: Any, x: DomainTensor, repeats: Any) -> DomainTensor:
    """Rows that are repeated are cut anew, in balance."""
    if len(repeats) < x.dim() or min(repeats, default=0) < 0:
        raise_as_torch(op, x, repeats)
    lead = len(repeats) - x.dim()
    place = lead + x._cut.dim
    times = repeats[place]
    if times == 1:
        return DomainTensor(op(x._local, repeats), x._cut.at(place))
    x = with_interval(x)
    target = Cut.balanced(x.domain, x._cut.dim, x._cut.rows * times)
    if target.rows:
        local = moves.rows(x._local, x._cut, target.offsets[:-1], target.offsets[1:], "circular")
    else:
        local = x._local.narrow(target.dim, 0, 0)
    across = list(repeats)
    across[place] = 1
    return DomainTensor(op(local, across), target.at(place))


@rule(aten.triu.default, aten.tril.default, aten.triu_.default, aten.tril_.default)
def triangle(op: Any, x: DomainTensor, diagonal: int = 0) -> DomainTensor:
    """The diagonal lies elsewhere in a rank's own rows or columns."""
    if x.dim() < 2:
        raise_as_torch(op, x, diagonal)
    in_place = op._schema.is_mutable
    if in_place:
        moves.refuse_write(op, x)
    if x._cut.dim >= x.dim() - 2:
        own = with_interval(x)
        if in_place and own._local is not x._local:
            return NotImplemented
        diagonal += own._cut.begin if own._cut.dim == x.dim() - 2 else -own._cut.begin
        local, cut = own._local, own._cut
    else:
        local, cut = x._local, x._cut
    result = op(local, diagonal)
    return x if in_place else DomainTensor(result, cut)
