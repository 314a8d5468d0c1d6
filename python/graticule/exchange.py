"""The exchange primitive: rows by interval and boundary, of one tensor or several, and its adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.compiling import fixed_shape
from graticule.domain import Domain
from graticule.environment import check_mode, traced_check_mode
from graticule.own_rows import expect_own_rows


def wrapped_dimension(dim: int, x: Tensor, name: str) -> int:
    """`dim` counted from 0. IndexError where x has no such dimension."""
    if not -x.dim() <= dim < x.dim():
        raise IndexError(f"{name}: expected a dimension from {-x.dim()} to {x.dim() - 1}, got {dim}")
    return dim % x.dim()


def _compare_in_check_mode(name: str, x: Tensor, dim: int, domain: Domain, arguments: Any) -> None:
    if traced_check_mode() if torch.compiler.is_compiling() else check_mode():
        sizes = [s for d, s in enumerate(x.shape) if d != dim]
        torch.ops.graticule.check_equal(name, f"{x.dtype} {sizes} dim {dim} {arguments}", domain.op_group)


def _exchange(
    name: str,
    op: Any,
    t: Tensor,
    domain: Any,
    cut: tuple[Sequence[int], Sequence[int], Sequence[int]],
    boundary: str,
    dim: int,
    lon_dim: int | None,
    row_on_pole: bool,
    flip_sign: bool,
) -> Tensor:
    """What gather_rows and fold_rows do alike: `cut` holds their offsets, begins and ends."""
    expect_own_rows(t, name)
    t = fixed_shape(t)
    lon = -1 if lon_dim is None else wrapped_dimension(lon_dim, t, name)
    dim = wrapped_dimension(dim, t, name)
    within = Domain.of(domain)
    offsets, begins, ends = cut
    rest = (list(offsets), list(begins), list(ends), boundary, dim, lon, row_on_pole, flip_sign)
    _compare_in_check_mode(name, t, dim, within, rest)
    return op(t, *rest, within.op_group)


def gather_rows(
    x: Tensor,
    domain: Any,
    offsets: Sequence[int],
    begins: Sequence[int],
    ends: Sequence[int],
    boundary: str = "none",
    dim: int = -2,
    lon_dim: int | None = None,
    row_on_pole: bool = True,
    flip_sign: bool = False,
) -> Tensor:
    """Gives every rank r the rows [begins[r], ends[r]) of the grid extended by `boundary`. All ranks must call.

    Args:
        x: this rank's own rows, offsets[r + 1] - offsets[r] of them along `dim`.
        domain: what Domain.of takes.
        offsets: the cut of the grid, N + 1 ascending row numbers from 0.
        begins: first wanted row of each rank; may lie before row 0.
        ends: row after the last wanted one of each rank; may lie beyond the grid.
        boundary: none (rows beyond the grid are an error), zeros, reflect, replicate, circular or pole.
        dim: the cut dimension.
        lon_dim: the longitudes, for pole; an even number of them.
        row_on_pole: for pole: the first and last row lie on the poles (row -1 is row 1) or half a row before them
            (row -1 is row 0); both half the longitudes away.
        flip_sign: for pole: values from the other side change sign, as components of vectors do.

    Returns:
        ends[r] - begins[r] rows. Differentiable; the derivative is fold_rows.

    Raises:
        ValueError, RuntimeError: on every rank before any message where the arguments cannot be met; within the timeout
            where the ranks' arguments differ.

    """
    cut = (offsets, begins, ends)
    return _exchange(
        "gather_rows", torch.ops.graticule.gather_rows, x, domain, cut, boundary, dim, lon_dim, row_on_pole, flip_sign
    )


def fold_rows(
    g: Tensor,
    domain: Any,
    offsets: Sequence[int],
    begins: Sequence[int],
    ends: Sequence[int],
    boundary: str = "none",
    dim: int = -2,
    lon_dim: int | None = None,
    row_on_pole: bool = True,
    flip_sign: bool = False,
) -> Tensor:
    """The adjoint of gather_rows: takes what it gives, and returns this rank's own rows, each the sum over all ranks.

    Arguments and errors are those of gather_rows. All ranks must call.
    """
    cut = (offsets, begins, ends)
    return _exchange(
        "fold_rows", torch.ops.graticule.fold_rows, g, domain, cut, boundary, dim, lon_dim, row_on_pole, flip_sign
    )


def _exchange_each(
    name: str,
    op: Any,
    tensors: Sequence[Tensor],
    domain: Any,
    cut: tuple[Sequence[int], Sequence[int], Sequence[int]],
    boundary: str,
    dim: int,
    lon_dim: int | None,
    row_on_pole: bool,
    flip_signs: Sequence[bool] | None,
) -> list[Tensor]:
    """What gather_rows_of_each and fold_rows_of_each do alike: `cut` holds their offsets, begins and ends."""
    for t in tensors:
        expect_own_rows(t, name)
    fixed = [fixed_shape(t) for t in tensors]
    lons = [-1 if lon_dim is None else wrapped_dimension(lon_dim, t, name) for t in fixed]
    dims = [wrapped_dimension(dim, t, name) for t in fixed]
    flips = [int(flip) for flip in flip_signs] if flip_signs is not None else [0] * len(fixed)
    within = Domain.of(domain)
    offsets, begins, ends = cut
    rest = (list(offsets), list(begins), list(ends), boundary, dims, lons, row_on_pole, flips)
    for t, own in zip(fixed, dims, strict=True):
        _compare_in_check_mode(name, t, own, within, rest)
    return op(fixed, *rest, within.op_group)


def gather_rows_of_each(
    xs: Sequence[Tensor],
    domain: Any,
    offsets: Sequence[int],
    begins: Sequence[int],
    ends: Sequence[int],
    boundary: str = "none",
    dim: int = -2,
    lon_dim: int | None = None,
    row_on_pole: bool = True,
    flip_signs: Sequence[bool] | None = None,
) -> list[Tensor]:
    """gather_rows of several tensors of one grid: what goes to one rank is one message. All ranks must call.

    Args:
        xs: each this rank's own rows; of any dtypes, sizes beside the rows and numbers of dimensions, on one device; as
            many on every rank.
        domain: as all that follows, see gather_rows.
        offsets: the cut.
        begins: of the wanted rows.
        ends: of the wanted rows.
        boundary: of all.
        dim: of all; counted from the end it may stand for another dimension in each.
        lon_dim: likewise.
        row_on_pole: of all.
        flip_signs: one for each tensor, for those that hold components of vectors; none flips unless given.

    Returns:
        As many tensors. Differentiable; the derivative is fold_rows_of_each.

    Raises:
        ValueError, RuntimeError: as gather_rows.

    """
    op = torch.ops.graticule.gather_rows_of_each
    cut = (offsets, begins, ends)
    return _exchange_each("gather_rows", op, xs, domain, cut, boundary, dim, lon_dim, row_on_pole, flip_signs)


def fold_rows_of_each(
    gs: Sequence[Tensor],
    domain: Any,
    offsets: Sequence[int],
    begins: Sequence[int],
    ends: Sequence[int],
    boundary: str = "none",
    dim: int = -2,
    lon_dim: int | None = None,
    row_on_pole: bool = True,
    flip_signs: Sequence[bool] | None = None,
) -> list[Tensor]:
    """The adjoint of gather_rows_of_each: takes what it gives, and returns this rank's own rows of each tensor.

    Arguments and errors are those of gather_rows_of_each. All ranks must call.
    """
    op = torch.ops.graticule.fold_rows_of_each
    cut = (offsets, begins, ends)
    return _exchange_each("fold_rows", op, gs, domain, cut, boundary, dim, lon_dim, row_on_pole, flip_signs)
