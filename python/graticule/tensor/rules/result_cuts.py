"""How the rows of a result are cut where it has other rows than the argument."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graticule.domain import Domain
from graticule.tensor import moves
from graticule.tensor.cut import Cut, balanced_offsets
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.every_rank import errors_of_every_rank

# A result keeps its rows where they are unless some rank would have this many times its share.
MOST_UNEVEN = 1.5


def with_interval(x: DomainTensor) -> DomainTensor:
    """The tensor with an interval of single indices on each rank: itself where it has one."""
    cut = x._cut
    if not cut.is_interval:
        new = Cut.balanced(x.domain, cut.dim, cut.size)
        return DomainTensor(moves.recut(x._local, cut, new), new, True)
    if cut.inner == 1:
        return x
    return DomainTensor(x._local, cut.flat(), x._moved, strides=x.stride())


def sliced_offsets(offsets: tuple[int, ...], start: int, step: int, count: int) -> tuple[int, ...]:
    """Offsets of the rows start, start + step, ..., `count` of them, each with whom it is."""
    return tuple(min(max(-((start - offset) // step), 0), count) for offset in offsets)


def own_slice(whole: Cut, part: Cut, start: int, step: int) -> tuple[int, int]:
    """Begin and end, among this rank's rows, of its rows of the slice `part` of `whole` that begins at `start`."""
    if part.own == 0:
        return 0, 0
    first = start + part.begin * step - whole.begin
    return first, first + (part.own - 1) * step + 1


def whole_of_slice(part: Cut, rows: int, start: int, step: int) -> Cut:
    """A cut of `rows` rows of which slice has the cut `part`: balanced where that agrees with it."""
    balanced = balanced_offsets(rows, part.domain.size)
    if sliced_offsets(balanced, start, step, part.rows) == part.offsets:
        return Cut(part.domain, part.dim, balanced)
    return Cut(
        part.domain,
        part.dim,
        tuple(0 if o == 0 else rows if o == part.rows else start + o * step for o in part.offsets[:-1]) + (rows,),
    )


def widened(cut: Cut, before: int, after: int) -> Cut:
    """The cut after rows were added before the first and after the last row, or taken away where negative."""
    rows = cut.rows + before + after
    offsets = tuple(
        0 if o == 0 else rows if o == cut.rows else min(max(o + before, 0), rows) for o in cut.offsets[:-1]
    ) + (rows,)
    return kept_or_balanced(cut.domain, cut.dim, offsets, largest_share(cut.offsets))


def kept_or_balanced(domain: Domain, dim: int, offsets: tuple[int, ...], usual: int) -> Cut:
    """The cut by `offsets`, or a balanced one where a rank would have much more than its share and than `usual`."""
    share = max(-(-offsets[-1] // domain.size), usual)
    if largest_share(offsets) <= MOST_UNEVEN * share + 1:
        return Cut(domain, dim, offsets)
    return Cut.balanced(domain, dim, offsets[-1])


def largest_share(offsets: tuple[int, ...]) -> int:
    """Rows of the rank that has most."""
    return max(end - begin for begin, end in zip(offsets[:-1], offsets[1:], strict=True))


def largest(tensors: Any) -> DomainTensor:
    """The largest of the DomainTensors among tensors, the first of equals."""
    return max((t for t in tensors if isinstance(t, DomainTensor)), key=lambda t: t.numel())


def raise_as_torch(op: Any, *args: Any, **kwargs: Any) -> None:
    """The error that torch has for arguments of these shapes; ValueError where it has none."""

    def empty(t: Any) -> Any:
        return torch.empty(tuple(t.shape), dtype=t.dtype, device="meta") if isinstance(t, Tensor) else t

    with errors_of_every_rank():
        op(*pytree.tree_map(empty, args), **pytree.tree_map(empty, kwargs))
    raise ValueError(f"{op}: arguments whose shapes do not fit together")
