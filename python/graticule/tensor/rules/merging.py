"""What every rank has of a reduction, brought together: the same values, merged in the same order, on every rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from graticule.domain import Domain
from graticule.tensor import moves, report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of `dtype` are added up over the ranks before they are rounded."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def summed(parts: list[Tensor | None], cut: Cut) -> list[Any]:
    """The sums over the ranks of gradients of parameters, in one reduction; the parts may be overwritten."""
    given = [part.reshape(-1).to(wide(part.dtype)) for part in parts if part is not None]
    if not given or cut.domain.size == 1:
        return list(parts)
    flat = moves.reduce_sum(given[0] if len(given) == 1 else torch.cat(given), cut.domain)
    pieces = iter(flat.split([part.numel() for part in given]))
    return [None if part is None else next(pieces).view(part.shape).to(part.dtype) for part in parts]


def gradients(parts: Any, wanted: Sequence[bool], cut: Cut) -> tuple[Any, ...]:
    """Of x, cut, and of parameters, sums over the ranks made in one go: from this rank's, as far as wanted."""
    of_x, *of_parameters = (part if want else None for part, want in zip(parts, wanted, strict=True))
    return None if of_x is None else DomainTensor(of_x, cut), *summed(of_parameters, cut)


def of_all_ranks(part: Tensor, domain: Domain) -> Tensor:
    """Every rank's `part`, all of one shape, along a new first dimension, in rank order."""
    if domain.size == 1:
        return part.unsqueeze(0)
    with report.move("reduction", domain):
        # Flat: what travels does not depend on how a rank's part lies in memory.
        counts = [part.numel()] * domain.size
        every = moves.all_to_all(part.reshape(-1).repeat(domain.size), counts, counts, domain, "reduction")
    return every.view(domain.size, *part.shape)


def of_ranks_with_rows(part: Tensor, cut: Cut) -> Tensor:
    """As of_all_ranks, without the ranks that have no rows: what those would say of them is no value."""
    parts = of_all_ranks(part, cut.domain)
    owners = [rank for rank in range(cut.domain.size) if cut.offsets[rank + 1] > cut.offsets[rank]]
    return parts if len(owners) == len(parts) else parts[owners]


def reduced_shape(shape: Sequence[int], dims: Sequence[int], keepdim: bool) -> list[int]:
    """Sizes of what a reduction of `dims` gives."""
    if keepdim:
        return [1 if d in dims else size for d, size in enumerate(shape)]
    return [size for d, size in enumerate(shape) if d not in dims]


def counts_of_ranks(cut: Cut, local: Tensor, dims: Sequence[int]) -> list[int]:
    """Over how many values of each rank a reduction of `dims`, the cut one among them, goes."""
    others = prod(local.shape[d] for d in dims if d != cut.dim) * cut.outer * cut.inner
    return [others * (end - begin) for begin, end in zip(cut.offsets, cut.offsets[1:], strict=False)]


def moments(local: Tensor, cut: Cut, dims: Sequence[int]) -> tuple[Tensor, Tensor, int]:
    """Mean and sum of squared deviations over `dims`, which stay as dimensions of size 1, and the number of values.

    In float64. Each rank takes its own, two passes over its rows, and they are merged by Chan's formula: no difference
    of large sums. One collective where the cut dimension is among `dims`, else none.
    """
    dims = list(dims)
    here = prod(local.shape[d] for d in dims)
    if here == 0:
        mean = local.new_zeros(reduced_shape(local.shape, dims, True), dtype=torch.float64)
        deviations = torch.zeros_like(mean)
    else:
        variance, mean = torch.var_mean(local.to(torch.float64), dims, correction=0, keepdim=True)
        deviations = variance * here
    if cut.dim not in dims or cut.domain.size == 1:
        # The mean of none: no other rank has any either.
        return mean if here else mean.fill_(math.nan), deviations, here
    counts = counts_of_ranks(cut, local, dims)
    total = sum(counts)
    parts = of_all_ranks(torch.stack([mean, deviations]).view(2, -1), cut.domain)
    means, weights = parts[:, 0], parts.new_tensor(counts)
    merged = weights @ means / total
    deviations = parts[:, 1].sum(0).add_(weights @ (means - merged).square_())
    return merged.view(mean.shape), deviations.view(mean.shape), total
