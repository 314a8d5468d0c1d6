"""How one dimension of a tensor is cut over a domain."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import torch
from torch import Tensor

from graticule.domain import Domain


@functools.lru_cache(maxsize=4096)
def balanced_offsets(rows: int, ranks: int) -> tuple[int, ...]:
    """The library's own cut."""
    return tuple(torch.ops.graticule.balanced_offsets(rows, ranks))


@dataclasses.dataclass(frozen=True)
class Cut:
    """Dimension `dim`, of size outer * rows * inner, cut along its rows; `offsets` says whose they are.

    Mostly outer and inner are 1: rank r owns the interval [offsets[r], offsets[r + 1]) of the dimension. A cut one
    that was merged with others by a reshape has the product of the sizes before it for `outer`, of those after it for
    `inner`: the rank then owns an interval in each of the `outer` parts.
    """

    domain: Domain
    dim: int
    offsets: tuple[int, ...]
    outer: int = 1
    inner: int = 1

    @staticmethod
    def balanced(domain: Domain, dim: int, rows: int) -> Cut:
        """The library's own cut of `rows` rows."""
        return Cut(domain, dim, balanced_offsets(rows, domain.size))

    @property
    def rows(self) -> int:
        """Rows of all ranks."""
        return self.offsets[-1]

    @property
    def begin(self) -> int:
        """This rank's first row."""
        return self.offsets[self.domain.rank]

    @property
    def own(self) -> int:
        """This rank's number of rows."""
        return self.offsets[self.domain.rank + 1] - self.offsets[self.domain.rank]

    @property
    def size(self) -> int:
        """Size of the whole dimension."""
        return self.outer * self.offsets[-1] * self.inner

    @property
    def own_size(self) -> int:
        """Size of this rank's part of the dimension."""
        return self.outer * self.own * self.inner

    @functools.cached_property
    def least_size(self) -> int:
        """Size of the smallest of the ranks' parts of the dimension."""
        rows = min(end - begin for begin, end in itertools.pairwise(self.offsets))
        return self.outer * rows * self.inner

    @property
    def is_interval(self) -> bool:
        """Whether each rank owns one interval of the dimension."""
        return self.outer == 1

    def flat(self) -> Cut:
        """An interval cut with rows of one index each."""
        if self.outer != 1:
            raise ValueError(f"{self} is no interval of its dimension")
        if self.inner == 1:
            return self
        return Cut(self.domain, self.dim, tuple(offset * self.inner for offset in self.offsets))

    def at(self, dim: int) -> Cut:
        """The same cut of another dimension."""
        return self if dim == self.dim else Cut(self.domain, dim, self.offsets, self.outer, self.inner)

    def global_shape(self, shape: torch.Size | tuple[int, ...] | list[int]) -> list[int]:
        """Sizes of the whole of which a part has these sizes."""
        sizes = list(shape)
        sizes[self.dim] = self.size
        return sizes

    def part_of(self, whole: Tensor) -> Tensor:
        """This rank's part of a tensor that every rank has whole: a view where the rank owns an interval."""
        begin, own, inner = self.begin, self.own, self.inner
        if self.outer == 1:
            return whole.narrow(self.dim, begin * inner, own * inner)
        parts = whole.unflatten(self.dim, (self.outer, self.rows, inner)).narrow(self.dim + 1, begin, own)
        return parts.flatten(self.dim, self.dim + 2)

    def indices(self, rank: int) -> Tensor:
        """The indices of the dimension that a rank owns, ascending."""
        begin, end = self.offsets[rank], self.offsets[rank + 1]
        whole = torch.arange(self.size).view(self.outer, self.rows, self.inner)
        return whole[:, begin:end].reshape(-1).contiguous()
