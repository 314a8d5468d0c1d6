"""What rules share."""

from __future__ import annotations

from typing import Any

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor


def whole(t: Any) -> Any:
    """A value on every rank: what is cut is collected. For what is small beside the input."""
    return moves.replicate(t._local, t._cut) if isinstance(t, DomainTensor) else t


def reduced_dimensions(dim: Any, ndim: int) -> list[int]:
    """The dimensions that a reduction's argument names, counted from 0; all where it names none."""
    if dim is None or isinstance(dim, (list, tuple)) and not dim:
        return list(range(ndim))
    named = dim if isinstance(dim, (list, tuple)) else [dim]
    return sorted({d % ndim for d in named}) if ndim else []


def after_reduction(cut: Cut, dims: list[int], keepdim: bool) -> Cut:
    """The cut of a result of which other dimensions, `dims`, were reduced."""
    return cut if keepdim else cut.at(cut.dim - sum(d < cut.dim for d in dims))
