"""How ranks share an attention: by batches or heads, by queries, or by keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from graticule.domain import Domain
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the queries, and the keys and values, are cut for the work; None: whole on every rank.

    Both along a batch dimension: each rank has all that its queries need. Both along tokens: keys go round. Queries
    alone, or keys alone: along tokens.
    """

    domain: Domain
    queries: Cut | None
    keys: Cut | None
    by_batches: bool = False


def is_supported(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """Whether the batches are the same, but for heads of the queries that share those of keys and values."""
    ndim = q.dim()
    if not (ndim == k.dim() == v.dim() >= 2) or k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        return False
    if mask is not None:
        matrix = (*q.shape[:-1], k.shape[-2])
        if mask.dim() > ndim or any(
            m not in (1, n) for m, n in zip(mask.shape, matrix[ndim - mask.dim() :], strict=True)
        ):
            return False
    if q.shape[:-2] == k.shape[:-2]:
        return True
    shares_heads = ndim > 2 and k.shape[-3] > 0 and q.shape[-3] % k.shape[-3] == 0
    return shares_heads and q.shape[:-3] == k.shape[:-3]


def layout_of(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Layout:
    """Where the least is moved, and every rank has its share of the work."""
    tokens = q.dim() - 2
    given = [t for t in (q, k, v) if isinstance(t, DomainTensor)]
    if not given:
        assert isinstance(mask, DomainTensor)
        # The mask says who works on what, if it has the rows of queries; else it is wanted whole.
        domain = mask._cut.domain
        return Layout(domain, Cut.balanced(domain, tokens, q.shape[-2]), None)
    domain = given[0]._cut.domain
    for t in given:
        if t._cut.dim < tokens:
            return _by_batches(t._cut, q, k)
    if not isinstance(k, DomainTensor) and not isinstance(v, DomainTensor):
        return Layout(domain, _token_cut(domain, [q]), None)
    keys = _token_cut(domain, [k, v])
    if not isinstance(q, DomainTensor):
        return Layout(domain, None, keys)
    for dim in reversed(range(tokens)):
        if k.shape[dim] % domain.size == 0 or k.shape[dim] >= 4 * domain.size:
            return _by_batches(Cut.balanced(domain, dim, k.shape[dim]), q, k)
    return Layout(domain, _token_cut(domain, [q]), keys)


def _token_cut(domain: Domain, candidates: Sequence[Tensor]) -> Cut:
    tokens = candidates[0].dim() - 2
    for t in candidates:
        if isinstance(t, DomainTensor) and t._cut.dim == tokens and t._cut.is_interval:
            return t._cut.flat()
    return Cut.balanced(domain, tokens, candidates[0].shape[tokens])


def _by_batches(cut: Cut, q: Tensor, k: Tensor) -> Layout:
    queries, keys = q.shape[cut.dim], k.shape[cut.dim]
    if queries == keys:
        return Layout(cut.domain, cut, cut, True)
    # Heads that share one of the keys' heads stay together.
    shared = Cut.balanced(cut.domain, cut.dim, keys)
    return Layout(cut.domain, dataclasses.replace(shared, inner=queries // keys), shared, True)
