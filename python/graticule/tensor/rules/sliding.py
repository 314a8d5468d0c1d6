"""Windows over rows: which rows of a result are made of which rows of its input, and what rules of such ops share."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.every_rank import errors_of_every_rank
from graticule.tensor.rules.pointwise import own_part

Rows = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Sliding:
    """`results` windows over `rows` rows, as pooling has them.

    A part of the results is computed by the same op, with the same padding, from rows that begin at a whole number of
    strides: then all windows lie as in the whole. Where the part's edge is not the grid's, a few of its first and last
    results are wrong, and cropped.
    """

    rows: int
    results: int
    kernel: int
    stride: int
    padding: int
    dilation: int = 1

    @property
    def span(self) -> int:
        """Rows from a window's first to its last."""
        return self.dilation * (self.kernel - 1) + 1

    def extra(self, results: Rows) -> int:
        """Results that must be computed before those wanted.

        Thereby the latter lie clear of the part's own padding, and the part has no fewer rows than the kernel, which
        some ops ask for.
        """
        short = results[0] * self.stride + self.kernel - self.rows
        return min(results[0], -(-max(self.padding, short) // self.stride))

    def inputs(self, results: Rows) -> Rows:
        """The rows of which `results`, and the extra ones, are computed."""
        begin, end = results
        if begin == end:
            return 0, 0
        first = (begin - self.extra(results)) * self.stride
        last = (end - 1) * self.stride - self.padding + self.span
        return first, min(self.rows, max(last, first + self.kernel))

    def touching(self, inputs: Rows) -> Rows:
        """The results whose windows touch rows `inputs`; (0, 0) where there are none."""
        if inputs[0] == inputs[1]:
            return 0, 0
        begin = max(0, -(-(inputs[0] + self.padding - self.span + 1) // self.stride))
        end = min(self.results, (inputs[1] - 1 + self.padding) // self.stride + 1)
        return (begin, end) if begin < end else (0, 0)


def intervals(cut: Cut) -> list[Rows]:
    """Every rank's rows."""
    return list(zip(cut.offsets[:-1], cut.offsets[1:], strict=True))


def output_cut(cut: Cut, rows: int) -> Cut:
    """The cut of a result of `rows` rows: the input's own where it has as many, else the balanced one."""
    return cut if rows == cut.rows else Cut.balanced(cut.domain, cut.dim, rows)


def in_intervals(x: DomainTensor) -> tuple[Tensor, Cut]:
    """The rank's part of x where each rank owns an interval of single indices, and that cut."""
    cut = x._cut
    if cut.is_interval:
        return x._local, cut.flat()
    new = Cut.balanced(cut.domain, cut.dim, cut.size)
    return moves.recut(x._local, cut, new), new


def gathered(t: Tensor, cut: Cut, wanted: list[Rows]) -> Tensor:
    """The rows that are wanted, one interval a rank, of a tensor that is cut along a dimension or is to be cut so."""
    if isinstance(t, DomainTensor) and t._cut.dim == cut.dim and t._cut.is_interval:
        return rows_of(t._local, t._cut, wanted)
    return rows_of(own_part(t, cut, t.dim()), cut, wanted)


def rows_of(local: Tensor, cut: Cut, wanted: list[Rows], boundary: str = "none") -> Tensor:
    """moves.rows of intervals; `local` itself where every rank wants its own rows: not to be written into."""
    if wanted == intervals(cut.flat()):
        return local
    return moves.rows(local, cut, [begin for begin, _ in wanted], [end for _, end in wanted], boundary)


def cropped(t: Tensor, dim: int, begin: int, count: int) -> Tensor:
    """Rows [begin, begin + count) in dense memory, laid out as t."""
    if begin == 0 and count == t.shape[dim]:
        return t
    return t.narrow(dim, begin, count).clone(memory_format=torch.preserve_format)


def embedded(t: Tensor, dim: int, begin: int, count: int) -> Tensor:
    """`count` rows, from row `begin` on those of t, zeros elsewhere; what lies outside is cropped."""
    if begin == 0 and count == t.shape[dim]:
        return t
    result = t.new_zeros(with_rows(t.shape, dim, count))
    first, last = max(begin, 0), min(begin + t.shape[dim], count)
    if first < last:
        result.narrow(dim, first, last - first).copy_(t.narrow(dim, first - begin, last - first))
    return result


def with_rows(sizes: Any, dim: int, count: int) -> list[int]:
    """Sizes with another one of dimension `dim`."""
    result = list(sizes)
    result[dim] = count
    return result


def as_list(value: Any, count: int) -> list[int]:
    """An option with one value a dimension, or one for all."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * count if len(values) == 1 else values


@dataclasses.dataclass(frozen=True)
class _Shape:
    sizes: tuple[int, ...]
    dtype: torch.dtype


@functools.lru_cache(maxsize=4096)
def _shapes(op: Any, args: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    given = [torch.empty(a.sizes, dtype=a.dtype, device="meta") if isinstance(a, _Shape) else a for a in args]
    with errors_of_every_rank():
        result = op(*given)
    return tuple(tuple(t.shape) for t in (result if isinstance(result, tuple) else (result,)))


def whole_shapes(op: Any, *args: Any) -> tuple[tuple[int, ...], ...]:
    """Sizes of what `op` gives of whole tensors; its own errors where it refuses them, before anything is sent."""

    def key(a: Any) -> Any:
        if isinstance(a, Tensor):
            return _Shape(tuple(a.shape), a.dtype)
        return tuple(a) if isinstance(a, list) else a

    return _shapes(op, tuple(key(a) for a in args))
