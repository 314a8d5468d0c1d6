"""What rules share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from graticule.domain import Domain
from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.every_rank import tell_others


def whole(t: Any) -> Any:
    """A value on every rank: what is cut is collected. For what is small beside the input."""
    return moves.replicate(t._local, t._cut) if isinstance(t, DomainTensor) else t


def wrapped(dim: int, ndim: int) -> int:
    """A dimension counted from 0. IndexError, as torch's, where there is none of that number."""
    last = max(ndim, 1)
    if not -last <= dim < last:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-last}, {last - 1}], but got {dim})")
    return dim % last


@contextlib.contextmanager
def told_to_all(domain: Domain) -> Iterator[None]:
    """Around local work whose errors depend on values: those of one rank are told to the others, which may see none."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        tell_others(domain, error)
        raise


def reduced_dimensions(dim: Any, ndim: int) -> list[int]:
    """The dimensions that a reduction's argument names, counted from 0; all where it names none."""
    if dim is None or isinstance(dim, (list, tuple)) and not dim:
        return list(range(ndim))
    named = [wrapped(d, ndim) for d in (dim if isinstance(dim, (list, tuple)) else [dim])]
    for d in named:
        if named.count(d) > 1:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    return sorted(named) if ndim else []


def after_reduction(cut: Cut, dims: list[int], keepdim: bool) -> Cut:
    """The cut of a result of which other dimensions, `dims`, were reduced."""
    return cut if keepdim else cut.at(cut.dim - sum(d < cut.dim for d in dims))
