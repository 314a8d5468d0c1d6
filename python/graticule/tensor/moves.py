"""What travels between ranks for a DomainTensor: on local tensors, below autograd. All ranks must call alike."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.domain import Domain
from graticule.memory_formats import CHANNELS_LAST, memory_format_of
from graticule.tensor import report
from graticule.tensor.call_facts import described
from graticule.tensor.cut import Cut

_ops = torch.ops.graticule


def rows(local: Tensor, cut: Cut, begins: Sequence[int], ends: Sequence[int], boundary: str = "none") -> Tensor:
    """Rows [begins[r], ends[r]) of the grid, extended by `boundary`, for each rank r; see graticule.gather_rows.

    The cut must be an interval; rows count single indices of its dimension.
    """
    with report.move("halo" if boundary != "none" else "rows", cut.domain):
        return _gather_rows(local, cut.flat(), cut.dim, begins, ends, boundary)


def fold(gradient: Tensor, cut: Cut, begins: Sequence[int], ends: Sequence[int], boundary: str = "none") -> Tensor:
    """The adjoint of `rows`: what every rank has for rows of this one, added up."""
    with report.move("halo" if boundary != "none" else "rows", cut.domain):
        flat = cut.flat()
        return _ops.fold_rows(
            gradient, flat.offsets, list(begins), list(ends), boundary, cut.dim, -1, True, False, cut.domain.group_name
        )


def _gather_rows(
    local: Tensor, cut: Cut, dim: int, begins: Sequence[int], ends: Sequence[int], boundary: str = "none"
) -> Tensor:
    return _ops.gather_rows(
        local, cut.offsets, list(begins), list(ends), boundary, dim, -1, True, False, cut.domain.group_name
    )


def gather(local: Tensor, cut: Cut) -> Tensor:
    """The whole tensor on every rank."""
    with report.move("GATHER", cut.domain):
        return everything(local, cut)


def gather_as_laid_out(t: Any) -> Tensor:
    """The whole of a DomainTensor on every rank, in the same memory format on all: that of the whole as it is cut."""
    local, cut = t._local, t._cut
    if cut.domain.size == 1:
        return local
    with report.move("GATHER", cut.domain):
        kept = _agreed_format(t)
        if cut.outer == cut.inner == 1:
            # In the format of this rank's rows, which is mostly the agreed one.
            size = cut.domain.size
            whole = _gather_rows(local, cut, cut.dim, [0] * size, [cut.rows] * size)
        else:
            whole = everything(local, cut)
    strides = torch.empty(whole.shape, memory_format=kept, device="meta").stride()
    if whole.stride() == strides:
        return whole
    return torch.empty_strided(whole.shape, strides, dtype=whole.dtype, device=whole.device).copy_(whole)


def _agreed_format(t: Any) -> torch.memory_format:
    own = memory_format_of(torch.empty_strided(tuple(t.shape), t.stride(), device="meta"))
    if t.dim() not in CHANNELS_LAST:
        return own
    # A replicated value in another format would be computed on by other loops, and so be other bits. One row or none
    # may lie in memory in either way, and those of from_local in any: the rank of most rows decides.
    is_last = torch.tensor([own != torch.contiguous_format], dtype=torch.int64, device=t._local.device)
    found = said_by_most_rows(is_last, t._cut)
    if found is None:
        return own
    return CHANNELS_LAST[t.dim()] if found[0] else torch.contiguous_format


def said_by_most_rows(own: Tensor, cut: Cut) -> list[int] | None:
    """The whole numbers of the rank of most rows, where each rank has as many; nothing of tensors without values."""
    size = cut.domain.size
    found = everything(own.unsqueeze(0), Cut(cut.domain, 0, tuple(range(size + 1))))
    counts = [end - begin for begin, end in itertools.pairwise(cut.offsets)]
    return None if found.is_meta else found[counts.index(max(counts))].tolist()


def replicate(local: Tensor, cut: Cut) -> Tensor:
    """The whole of a tensor of which an op needs all on every rank: a row, an index, the other factor of a product.

    The op's work is still shared by the ranks: a replica in the report, not a gather.
    """
    with report.move("replica", cut.domain):
        return everything(local, cut)


def everything(local: Tensor, cut: Cut) -> Tensor:
    """The whole tensor on every rank, in no report."""
    size = cut.domain.size
    if size == 1:
        return local
    # Of three dimensions, which have no memory format: one of four and few rows might be in another one on each rank.
    before, after = local.shape[: cut.dim], local.shape[cut.dim + 1 :]
    split = local.reshape(before.numel() * cut.outer, cut.own, cut.inner * after.numel())
    whole = _gather_rows(split, cut, 1, [0] * size, [cut.rows] * size)
    return whole.view(*before, cut.size, *after)


def recut(local: Tensor, old: Cut, new: Cut) -> Tensor:
    """The rank's part by the cut `new` of a tensor that is cut by `old`: along the same dimension or another one."""
    if new == old:
        return local
    if new.domain != old.domain:
        raise RuntimeError(
            f"rank {old.domain.rank} of {old.domain.size}: expected DomainTensors of one domain, got {old.domain} and "
            f"{new.domain}: gather() one of them"
        )
    if old.domain.size == 1:
        return local
    if old.dim == new.dim and old.is_interval and new.is_interval:
        offsets = new.flat().offsets
        if offsets == old.flat().offsets:
            return local
        return rows(local, old, offsets[:-1], offsets[1:])
    with report.move("all-to-all", old.domain):
        return _all_to_all(local, old, new)


def all_to_all(values: Tensor, going: list[int], coming: list[int], domain: Domain, what: str) -> Tensor:
    """Flat values, going[r] of them for each rank r, for those that come from each."""
    return _ops.all_to_all(values, going, coming, domain.group_name, described(what))


def reduce_sum(local: Tensor, domain: Domain, what: str = "sum") -> Tensor:
    """The sum over the ranks, the same bits on every rank; `local` may be overwritten.

    Of half types it is made in a wider one and rounded once.
    """
    if domain.size == 1:
        return local
    if not (local.is_floating_point() or local.is_complex()) and local.dtype != torch.int64:
        return reduce_sum(local.to(torch.int64), domain, what).to(local.dtype)
    # What no transport adds.
    if local.is_complex():
        return torch.view_as_complex(reduce_sum(torch.view_as_real(local.resolve_conj()), domain, what))
    if local.dtype in (torch.float16, torch.bfloat16):
        return reduce_sum(local.float(), domain, what).to(local.dtype)
    with report.move("reduction", domain):
        if not local.is_contiguous():
            local = local.contiguous()
        return _ops.all_reduce_sum_(local, domain.group_name, described(what))


def refuse_write(op: Any, target: Any) -> None:
    """RuntimeError where a view of a DomainTensor could not share its memory: what is written into it would be lost."""
    if target._moved:
        raise RuntimeError(
            f"{op}: rank {target._cut.domain.rank}: expected a DomainTensor with memory of its own, got a view whose "
            "rows were moved between ranks: a write into it would be lost. clone() it first"
        )


class _Pair:
    """Where the values that one rank sends another lie: positions along the old and the new cut dimension."""

    def __init__(self, old: Cut, new: Cut, source: int, target: int) -> None:
        mine, theirs = old.indices(source), new.indices(target)
        if old.dim != new.dim:
            # The source narrows the new dimension, the target receives along the old one.
            self.taken, self.placed = theirs, mine
        else:
            common = mine[torch.isin(mine, theirs)]
            self.taken = torch.searchsorted(mine, common)
            self.placed = torch.searchsorted(theirs, common)


@functools.lru_cache(maxsize=1024)
def _pairs(old: Cut, new: Cut) -> tuple[list[_Pair], list[_Pair]]:
    rank, size = old.domain.rank, old.domain.size
    sends = [_Pair(old, new, rank, peer) for peer in range(size)]
    return sends, [_Pair(old, new, peer, rank) for peer in range(size)]


def _all_to_all(local: Tensor, old: Cut, new: Cut) -> Tensor:
    sends, receives = _pairs(old, new)
    take_dim = new.dim
    parts = [local.index_select(take_dim, pair.taken.to(local.device)).reshape(-1) for pair in sends]
    sizes = list(local.shape)
    sizes[old.dim] = old.size
    sizes[new.dim] = new.own_size
    shapes = []
    for pair in receives:
        shape = list(sizes)
        shape[old.dim] = len(pair.placed)
        shapes.append(shape)
    counts = [torch.Size(shape).numel() for shape in shapes]
    flat = _ops.all_to_all(torch.cat(parts), [part.numel() for part in parts], counts, old.domain.group_name, "re-cut")
    result = local.new_empty(sizes)
    for pair, shape, values in zip(receives, shapes, flat.split(counts), strict=True):
        if values.numel():
            result.index_copy_(old.dim, pair.placed.to(local.device), values.view(shape))
    return result
