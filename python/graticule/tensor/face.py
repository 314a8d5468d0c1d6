"""How DomainTensors are made: graticule.shard and graticule.from_local."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.domain import Domain
from graticule.exchange import wrapped_dimension
from graticule.tensor import functions
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

    Args:
        x: this rank's rows.
        domain: what Domain.of takes.
        dim: the cut dimension.
        rows: rows of all ranks, cut as shard cuts them: nothing travels. Without it the ranks tell each other how many
            they have, and any cut will do.

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
        return functions.from_local(x, Cut(within, place, offsets))
    cut = Cut.balanced(within, place, rows)
    if own != cut.own:
        why = (
            f"from_local: rank {within.rank} of {within.size}: expected {cut.own} of {rows} rows, got {own}; "
            "leave rows out for a cut of another kind"
        )
        # The others may have as many as they should.
        torch.ops.graticule.poison(within.group_name, why)
        raise ValueError(why)
    return functions.from_local(x, cut)


def _is_dense(x: Tensor) -> bool:
    sizes = tuple(x.shape)
    dense = strides_in_order(x.stride(), sizes, sizes)
    return all(size < 2 or own == other for size, own, other in zip(sizes, x.stride(), dense, strict=True))


def _dimension(name: str, dim: int, x: Tensor) -> int:
    if isinstance(x, DomainTensor):
        raise TypeError(f"{name}: expected a plain tensor, got a DomainTensor")
    return wrapped_dimension(dim, x, name)
