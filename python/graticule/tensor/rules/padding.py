"""Padding. Rows beyond the grid come with the halo, from whichever ranks have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.result_cuts import raise_as_torch, widened, with_interval

aten = torch.ops.aten

_BOUNDARIES = {
    getattr(aten, f"{kind}_pad{n}d{backward}").default: boundary
    for kind, boundary in (("reflection", "reflect"), ("replication", "replicate"))
    for n in (1, 2, 3)
    for backward in ("", "_backward")
}


def along_and_across(padding: Sequence[int], ndim: int, dim: int) -> tuple[int, int, list[int]]:
    """What is added before and after the cut dimension, and the padding without it."""
    across = list(padding)
    place = 2 * (ndim - 1 - dim)
    if place >= len(across):
        return 0, 0, across
    before, after = across[place : place + 2]
    across[place : place + 2] = [0, 0]
    return before, after, across


def wanted_rows(target: Cut, before: int) -> tuple[list[int], list[int]]:
    """Which rows of the unpadded grid, and beyond it, each rank's rows of the padded one are."""
    shifted = [offset - before for offset in target.offsets]
    return shifted[:-1], shifted[1:]


def _take_rows(local: Tensor, cut: Cut, begins: list[int], ends: list[int]) -> Tensor:
    """Rows [begins[r], ends[r]) for each rank; without messages, and without a copy, where every rank has its own."""
    own = zip(begins, ends, cut.offsets[:-1], cut.offsets[1:], strict=True)
    if all(b == e or first <= b and e <= last for b, e, first, last in own):
        begin, end = begins[cut.domain.rank], ends[cut.domain.rank]
        return local.narrow(cut.dim, begin - cut.begin if end > begin else 0, end - begin)
    return moves.rows(local, cut, begins, ends)


@rule(aten.constant_pad_nd.default)
def constant_pad(op: Any, x: DomainTensor, pad: Any, value: Any = 0) -> DomainTensor:
    """Rows of the constant are made where they belong; negative padding takes rows away."""
    ndim = x.dim()
    if len(pad) % 2 or len(pad) > 2 * ndim or _takes_too_much(x.shape, pad):
        raise_as_torch(op, x, pad, value)
    before, after, across = along_and_across(pad, ndim, x._cut.dim)
    if before == 0 and after == 0:
        return DomainTensor(op(x._local, across, value), x._cut)
    x = with_interval(x)
    cut = x._cut
    target = widened(cut, before, after)
    begins, ends = ([min(max(row, 0), cut.rows) for row in rows] for rows in wanted_rows(target, before))
    local = _take_rows(x._local, cut, begins, ends)
    missing = target.own - local.shape[cut.dim]
    lead = min(max(before - target.begin, 0), missing)
    own_pad = across + [0] * (2 * (ndim - cut.dim) - len(across))
    place = 2 * (ndim - 1 - cut.dim)
    own_pad[place : place + 2] = [lead, missing - lead]
    return DomainTensor(op(local, own_pad, value), target)


def _takes_too_much(shape: Sequence[int], pad: Sequence[int]) -> bool:
    sizes = list(reversed(shape))
    return any(sizes[i] + min(pad[2 * i], 0) + min(pad[2 * i + 1], 0) < 0 for i in range(len(pad) // 2))


@rule(*(op for op in _BOUNDARIES if "backward" not in str(op)))
def pad_from_the_grid(op: Any, x: DomainTensor, padding: Any) -> DomainTensor:
    """Reflection or replication: across the rows on each rank, then along them with the halo."""
    raise_unless_fit(op, x, padding)
    before, after, across = along_and_across(padding, x.dim(), x._cut.dim)
    local = x._local
    if any(across):
        sizes = list(local.shape)
        for i in range(len(across) // 2):
            sizes[-1 - i] += across[2 * i] + across[2 * i + 1]
        local = op(local, across) if local.numel() else local.new_empty(sizes)
    if before == 0 and after == 0:
        return DomainTensor(local if any(across) else local.clone(), x._cut)
    x = with_interval(DomainTensor(local, x._cut))
    target = widened(x._cut, before, after)
    begins, ends = wanted_rows(target, before)
    return DomainTensor(moves.rows(x._local, x._cut, begins, ends, _BOUNDARIES[op]), target)


def raise_unless_fit(op: Any, x: Tensor, padding: Sequence[int]) -> None:
    """Torch's own error for sizes that cannot be padded so: a rank without rows would not find it."""
    padded = len(padding) // 2
    sizes = list(reversed(x.shape))[:padded]
    most = max if "reflection" in str(op) else lambda *_: 0
    fits = x.dim() in (padded + 1, padded + 2) and all(
        size > 0 and most(padding[2 * i : 2 * i + 2]) < size and size + sum(padding[2 * i : 2 * i + 2]) > 0
        for i, size in enumerate(sizes)
    )
    if not fits or 0 in x.shape:
        op(torch.empty(tuple(x.shape), dtype=x.dtype, device="meta"), padding)


@rule(*(op for op in _BOUNDARIES if "backward" in str(op)))
def pad_from_the_grid_backward(op: Any, grad: Tensor, x: Tensor, padding: Any) -> DomainTensor:
    """The adjoint: rows beyond the grid go back to where they came from, then each rank does across its own."""
    ndim = x.dim()
    if isinstance(x, DomainTensor):
        cut = x._cut if x._cut.is_interval else Cut.balanced(x.domain, x._cut.dim, x._cut.size)
    else:
        assert isinstance(grad, DomainTensor)
        before, after, _ = along_and_across(padding, ndim, grad._cut.dim)
        keeps = before == 0 and after == 0 and grad._cut.is_interval
        cut = grad._cut if keeps else Cut.balanced(grad.domain, grad._cut.dim, x.shape[grad._cut.dim])
    cut = cut.flat()
    before, after, across = along_and_across(padding, ndim, cut.dim)
    if isinstance(grad, DomainTensor) and grad._cut.dim == cut.dim and grad._cut.is_interval:
        target = grad._cut.flat()
        local = grad._local
    else:
        target = widened(cut, before, after)
        local = own_part(grad, target, ndim)
    begins, ends = wanted_rows(target, before)
    stays = target.offsets == cut.offsets and before == 0 and after == 0
    if not stays:
        local = moves.fold(local, cut, begins, ends, _BOUNDARIES[op])
    if not any(across):
        return DomainTensor(local.clone() if stays else local, cut)
    sizes = list(x.shape)
    sizes[cut.dim] = cut.own
    if 0 in sizes:
        return DomainTensor(local.new_zeros(sizes), cut)
    return DomainTensor(op(local.contiguous(), local.new_zeros(1).expand(sizes), across), cut)
