"""Which rank has the rows that index tensors name, and how values travel between there and the result."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from graticule.tensor import moves, report
from graticule.tensor.cut import Cut, balanced_offsets


class IndexLayout:
    """Where the dimensions of x[indices] come from, as torch lays them out: `indices` has None where x is whole."""

    def __init__(self, shape: Sequence[int], indices: Sequence[Tensor | None]) -> None:
        self.indexed = [d for d, index in enumerate(indices) if index is not None]
        given = [index for index in indices if index is not None]
        self.broadcast = torch.broadcast_shapes(*(tuple(index.shape) for index in given))
        adjacent = self.indexed[-1] - self.indexed[0] == len(self.indexed) - 1
        self.place = self.indexed[0] if adjacent else 0
        self.kept = [d for d in range(len(shape)) if d not in self.indexed]
        sizes = [shape[d] for d in self.kept]
        self.shape = [*sizes[: self.place], *self.broadcast, *sizes[self.place :]]

    def of_kept(self, dim: int) -> int:
        """The dimension of the result that dimension `dim` of x, which is not indexed, becomes."""
        order = self.kept.index(dim)
        return order if order < self.place else order + len(self.broadcast)


def checked(shape: Sequence[int], indices: Sequence[Tensor | None], negative: bool = True) -> list[Tensor | None]:
    """The indices counted from 0. They are the same on every rank, so an IndexError is too."""
    result: list[Tensor | None] = []
    for d, index in enumerate(indices):
        if index is not None and index.numel():
            least, greatest = index.aminmax()
            size = shape[d]
            if int(least) < (-size if negative else 0) or int(greatest) >= size:
                raise IndexError(f"index out of range in dimension {d} of size {size}: {int(least)} to {int(greatest)}")
            if int(least) < 0:
                index = torch.where(index < 0, index + size, index)
        result.append(index)
    return result


class IndexRoutes:
    """For index tensors that every rank has, one of them along the cut dimension.

    Positions are those of the index tensors' broadcast shape, in order. `cut` is that of the result; it lies along the
    first dimension of the broadcast shape that has several indices.
    """

    def __init__(self, cut: Cut, layout: IndexLayout, indices: Sequence[Tensor | None]) -> None:
        shape = layout.broadcast
        self.layout = layout
        first = next((d for d, size in enumerate(shape) if size > 1), 0)
        count = shape[first] if shape else 1
        domain = cut.domain
        offsets = cut.offsets if count == cut.rows else balanced_offsets(count, domain.size)
        self.cut = Cut(domain, layout.place + first, offsets)
        inner = functools.reduce(lambda a, b: a * b, shape[first + 1 :], 1)
        ranges = [offset * inner for offset in offsets]
        flat = [None if i is None else i.expand(shape).reshape(-1) for i in indices]
        rows = flat[cut.dim]
        assert rows is not None
        ends = torch.tensor(cut.offsets[1:], device=rows.device)
        owners = torch.searchsorted(ends, rows, right=True)
        self.mine = (owners == domain.rank).nonzero().view(-1)
        self._targets = torch.bincount(
            torch.searchsorted(torch.tensor(ranges[1:], device=rows.device), self.mine, right=True),
            minlength=domain.size,
        ).tolist()
        own = owners[ranges[domain.rank] : ranges[domain.rank + 1]]
        self._sources = torch.bincount(own, minlength=domain.size).tolist()
        self._order = torch.argsort(own, stable=True)
        self.local_indices = [
            None if i is None else i[self.mine] - (cut.begin if d == cut.dim else 0) for d, i in enumerate(flat)
        ]

    def to_result(self, values: Tensor) -> Tensor:
        """This rank's part of the result, of what each rank has at the positions that are its own, `mine`."""
        arrived = self._exchange(values, self._targets, self._sources)
        result = torch.empty_like(arrived).index_copy_(0, self._order, arrived)
        return result.movedim(0, self.layout.place).unflatten(self.layout.place, self._own_shape())

    def to_owners(self, part: Tensor) -> Tensor:
        """The adjoint way: of a rank's part of the result, values for the positions `mine`, in their dimension."""
        place = self.layout.place
        flat = part.flatten(place, place + len(self._own_shape()) - 1).movedim(place, 0)
        arrived = self._exchange(flat.index_select(0, self._order).movedim(0, place), self._sources, self._targets)
        return arrived.movedim(0, place)

    def _own_shape(self) -> list[int]:
        shape = list(self.layout.broadcast) or [1]
        shape[self.cut.dim - self.layout.place] = self.cut.own
        return shape

    def _exchange(self, values: Tensor, going: list[int], coming: list[int]) -> Tensor:
        first = values.movedim(self.layout.place, 0).contiguous()
        rest = first.shape[1:]
        each = rest.numel()
        if self.cut.domain.size == 1:
            return first
        with report.move("rows", self.cut.domain):
            flat = moves.all_to_all(
                first.view(-1), [n * each for n in going], [n * each for n in coming], self.cut.domain, "index"
            )
        return flat.view(sum(coming), *rest)
