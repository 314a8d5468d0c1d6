"""How DomainTensors are made: graticule.shard and graticule.from_local."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from graticule.domain import Domain
from graticule.exchange import wrapped_dimension
from graticule.tensor import functions, moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.layout import strides_in_order


def shard(x: Tensor, domain: Any, dim: int = -2) -> DomainTensor:
    """Cuts a tensor that every rank has whole: each keeps a copy of its own rows. Nothing travels.

    Args:
        x: the whole tensor, the same on every rank. Where it needs a gradient, it gets the whole one.
        domain: what Domain.of takes.
        dim: the dimension to cut; rank r of N owns rows [r * G // N, (r + 1) * G // N).

    Raises:
        IndexError: where x has no such dimension.

    """
    within = Domain.of(domain)
    place = _dimension("shard", dim, x)
    return functions.shard(x, Cut.balanced(within, place, x.shape[place]))


def from_local(x: Tensor, domain: Any, dim: int = -2, rows: int | None = None) -> DomainTensor:
    """A DomainTensor over rows that this rank has; it shares their memory, where they lie densely. All ranks must call.

    Where some rank has one row or none, the rank of most rows says in which order dimensions lie, and rows that lie in
    another one are copied.

    Args:
        x: this rank's rows.
        domain: what Domain.of takes.
        dim: the cut dimension.
        rows: rows of all ranks, cut as shard cuts them: nothing travels, unless some rank has one row or none. Without
            it the ranks tell each other how many they have, and any cut will do.

    Raises:
        ValueError: where `rows` is given and this rank has another number of them than shard would give it.

    """
    within = Domain.of(domain)
    place = _dimension("from_local", dim, x)
    own = x.shape[place]
    if not _is_dense(x):
        # What is a view of the tensor must not depend on how a rank's rows lie among others.
        x = x.contiguous()
    if rows is None:
        offsets = tuple(torch.ops.graticule.row_offsets(own, within.group_name, "from_local"))
        return _laid_out_alike(x, Cut(within, place, offsets))
    cut = Cut.balanced(within, place, rows)
    if own != cut.own:
        why = (
            f"from_local: rank {within.rank} of {within.size}: expected {cut.own} of {rows} rows, got {own}; "
            "leave rows out for a cut of another kind"
        )
        # The others may have as many as they should.
        torch.ops.graticule.poison(within.group_name, why)
        raise ValueError(why)
    return _laid_out_alike(x, cut)


def _laid_out_alike(x: Tensor, cut: Cut) -> DomainTensor:
    """One row or none does not tell in which order dimensions lie: then all take that of the rank of most rows."""
    if cut.domain.size == 1 or cut.least_size > 1:
        return functions.from_local(x, cut)
    found = moves.said_by_most_rows(torch.tensor(x.stride(), device=x.device), cut)
    if found is None:
        return functions.from_local(x, cut)
    most = max(end - begin for begin, end in itertools.pairwise(cut.offsets))
    sizes = tuple(most if d == cut.dim else n for d, n in enumerate(x.shape))
    whole = tuple(cut.global_shape(x.shape))
    strides = strides_in_order(tuple(found), sizes, whole)
    here = strides_in_order(strides, whole, tuple(x.shape))
    if any(n > 1 and a != b for n, a, b in zip(x.shape, x.stride(), here, strict=True)):
        x = torch.empty_strided(x.shape, here, dtype=x.dtype, device=x.device).copy_(x)
    return functions.from_local(x, cut, strides)


def _is_dense(x: Tensor) -> bool:
    sizes = tuple(x.shape)
    dense = strides_in_order(x.stride(), sizes, sizes)
    return all(size < 2 or own == other for size, own, other in zip(sizes, x.stride(), dense, strict=True))


def _dimension(name: str, dim: int, x: Tensor) -> int:
    if isinstance(x, DomainTensor):
        raise TypeError(f"{name}: expected a plain tensor, got a DomainTensor")
    return wrapped_dimension(dim, x, name)
