"""Attention over the ranks, on local tensors: whose keys meet whose queries, and what comes of each meeting."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.rules import attention_blocks as blocks
from graticule.tensor.rules.attention_blocks import Gradients, Options, Place
from graticule.tensor.rules.attention_layout import Layout
from graticule.tensor.rules.merging import wide


def forward(layout: Layout, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, o: Options) -> tuple[Tensor, Tensor]:
    """See blocks.forward; of all keys, on the rank that has the queries."""
    if layout.queries is not None and (layout.by_batches or layout.keys is None):
        return blocks.forward(q, k, v, bias, o, _place(layout))
    # What is merged is rounded once, at the end.
    inner = wide(q.dtype)
    wide_q = q.to(inner)
    if layout.queries is None:
        out, total = _over_keys(layout, blocks.forward(wide_q, k.to(inner), v.to(inner), bias, o, _place(layout)))
        return out.to(q.dtype), total
    assert layout.keys is not None
    both = wide_q.new_zeros((*q.shape[:-1], v.shape[-1])), wide_q.new_full(q.shape[:-1], -math.inf)
    for step in _ring(layout.keys):
        keys, values = (t.to(inner) for t in step.fetch(k, v))
        if step.is_needed(layout.queries, o):
            place = Place(layout.queries.begin, step.column)
            part = None if bias is None else step.columns_of(bias)
            both = blocks.merged(both, blocks.forward(wide_q, keys, values, part, o, place))
    return both[0].to(q.dtype), both[1]


def backward(
    layout: Layout,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    total: Tensor,
    bias_needs: bool,
    o: Options,
) -> Gradients:
    """See blocks.backward; what a rank's queries or keys add to gradients of what is whole is this rank's part only."""
    if layout.queries is None or layout.keys is None or layout.by_batches:
        return blocks.backward(grad, q, k, v, bias, out, total, bias_needs, o, _place(layout))
    made = Gradients.zeros(q, k, v, bias if bias_needs else None)
    grad, q, out = (t.to(made.q.dtype) for t in (grad, q, out))
    for step in _ring(layout.keys):
        keys, values = (t.to(made.q.dtype) for t in step.fetch(k, v))
        if step.is_needed(layout.queries, o):
            place = Place(layout.queries.begin, step.column)
            part = None if bias is None else step.columns_of(bias)
            block = blocks.backward(grad, q, keys, values, part, out, total, bias_needs, o, place)
            made.q += block.q
            if made.bias is not None and block.bias is not None:
                step.columns_of(made.bias).add_(block.bias)
            returned = torch.cat([block.k, block.v], -1)
        else:
            returned = torch.cat([keys, values], -1).zero_()
        k_part, v_part = step.send_back(returned).split([k.shape[-1], v.shape[-1]], -1)
        made.k += k_part
        made.v += v_part
    return made


def _place(layout: Layout) -> Place:
    if layout.by_batches:
        return Place(batches=layout.queries)
    return Place(0 if layout.queries is None else layout.queries.begin, 0 if layout.keys is None else layout.keys.begin)


def _over_keys(layout: Layout, own: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Merges what every rank made of the same queries and its own keys."""
    domain = layout.domain
    each = moves.replicate(own[1].unsqueeze(0), Cut.balanced(domain, 0, domain.size))
    total = torch.logsumexp(each, 0)
    return moves.reduce_sum(own[0] * blocks.share(own[1], total), domain), total


@dataclasses.dataclass(frozen=True)
class _Step:
    """A turn in which every rank has the keys of another one, `ahead` of it."""

    cut: Cut
    ahead: int

    @property
    def _owners(self) -> list[int]:
        size = self.cut.domain.size
        return [(rank + self.ahead) % size for rank in range(size)]

    @property
    def _begins(self) -> list[int]:
        return [self.cut.offsets[owner] for owner in self._owners]

    @property
    def _ends(self) -> list[int]:
        return [self.cut.offsets[owner + 1] for owner in self._owners]

    @property
    def column(self) -> int:
        """First column of the keys in the matrix of weights."""
        return self._begins[self.cut.domain.rank]

    @property
    def size(self) -> int:
        """Number of keys."""
        return self._ends[self.cut.domain.rank] - self.column

    def fetch(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the turn."""
        if self.ahead == 0:
            return k, v
        both = moves.rows(torch.cat([k, v], -1), self.cut, self._begins, self._ends)
        keys, values = both.split([k.shape[-1], v.shape[-1]], -1)
        return keys, values

    def send_back(self, gradient: Tensor) -> Tensor:
        """To the owner of these keys what this rank made; gets what the rank that has this one's made."""
        if self.ahead == 0:
            return gradient
        return moves.fold(gradient, self.cut, self._begins, self._ends)

    def is_needed(self, queries: Cut, o: Options) -> bool:
        """Whether any of this rank's queries sees any of the keys."""
        return queries.own > 0 and self.size > 0 and not (o.causal and self.column >= queries.begin + queries.own)

    def columns_of(self, bias: Tensor) -> Tensor:
        """The bias of these keys: a view."""
        if bias.dim() == 0 or bias.shape[-1] != self.cut.rows:
            return bias
        return bias.narrow(-1, self.column, self.size)


def _ring(cut: Cut) -> Iterator[_Step]:
    for ahead in range(cut.domain.size):
        yield _Step(cut, ahead)
