"""Pooling to a given size: cell i of O of R rows has rows [floor(i R / O), ceil((i + 1) R / O))."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves, report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.pooling import (
    each,
    each_backward,
    gradient_by_indices,
    indices_of_whole,
    nothing,
    spatial_dimensions,
)
from graticule.tensor.rules.sliding import (
    Rows,
    in_intervals,
    intervals,
    output_cut,
    rows_of,
    whole_shapes,
    with_rows,
)
from graticule.tensor.rules.support import whole
from graticule.tensor.running import uncut

aten = torch.ops.aten
_ops = torch.ops.graticule


@rule(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)
def adaptive_avg_pool(op: Any, x: DomainTensor, size: Any) -> Any:
    """Means across the cut, of these the means along it. Of one row of all ranks' every rank has the whole result."""
    if x.numel() == 0 or not x.is_floating_point():
        return uncut(op, (x, size), {})
    (shape,) = whole_shapes(op, x, size)
    if x._cut.dim < x.dim() - spatial_dimensions(op):
        return each(op, x, (shape,), (size,))
    local, cut = in_intervals(x)
    out = output_cut(cut, shape[cut.dim])
    across = local
    sizes = with_rows(shape, cut.dim, cut.own)
    if sizes != list(local.shape):
        across = op(local, sizes[-len(size) :]) if local.numel() else local.new_empty(sizes)
    if out.rows == 1:
        mean = _wide(across).sum(cut.dim, keepdim=True).div_(cut.rows)
        return moves.reduce_sum(mean, cut.domain).to(x.dtype)
    return DomainTensor(_along(_ops.resample_rows, across, cut, out), out)


@rule(aten._adaptive_avg_pool2d_backward.default, aten._adaptive_avg_pool3d_backward.default)
def adaptive_avg_pool_backward(op: Any, grad: Tensor, x: Tensor) -> Any:
    """The adjoint of the two steps."""
    if not isinstance(x, DomainTensor) or x.numel() == 0:
        return uncut(op, (grad, x), {})
    if x._cut.dim < x.dim() - spatial_dimensions(op):
        return each_backward(op, grad, x, ())
    local, cut = in_intervals(x)
    out = output_cut(cut, grad.shape[cut.dim])
    if out.rows == 1:
        along = (whole(grad) / cut.rows).expand(with_rows(grad.shape, cut.dim, cut.own))
    else:
        along = _along(_ops.resample_rows_adjoint, own_part(grad, out, grad.dim()), cut, out)
    if along.shape == local.shape:
        return DomainTensor(along.contiguous(), cut)
    return DomainTensor(op(along.contiguous(), local) if local.numel() else torch.zeros_like(local), cut)


def _along(resample: Any, t: Tensor, cut: Cut, out: Cut) -> Tensor:
    """Means along the cut, or their adjoint, in no less than float32."""
    channels_last = not t.is_contiguous()
    with report.move("rows", cut.domain):
        result = resample(
            _wide(t), "area", False, None, channels_last, cut.offsets, out.offsets, cut.dim, cut.domain.group_name,
            "adaptive_avg_pool",
        )  # fmt: skip
    return result.to(t.dtype)


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _cell(i: int, rows: int, results: int) -> Rows:
    return i * rows // results, -(-(i + 1) * rows // results)


@rule(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def adaptive_max_pool(op: Any, x: DomainTensor, size: Any) -> Any:
    """Maxima across the cut, of these those along it: among equals the first index, of nans the last, as serial."""
    if x.numel() == 0:
        return uncut(op, (x, size), {})
    shapes = whole_shapes(op, x, size)
    if x._cut.dim < x.dim() - spatial_dimensions(op):
        return each(op, x, shapes, (size,))
    local, cut = in_intervals(x)
    dim = cut.dim
    out = output_cut(cut, shapes[0][dim])
    sizes = with_rows(shapes[0], dim, cut.own)
    if local.numel():
        values, indices = op(local, sizes[-len(size) :])
        held = (cut.begin, cut.begin + cut.own)
        indices = indices_of_whole(indices, x, dim, spatial_dimensions(op), held)
    else:
        values, indices = local.new_empty(sizes), local.new_empty(sizes, dtype=torch.int64)
    cells = [[_cell(i, cut.rows, out.rows) for i in range(*rows)] for rows in intervals(out)]
    wanted = [(own[0][0], own[-1][1]) if own else (0, 0) for own in cells]
    values, indices = (rows_of(t, cut, wanted) for t in (values, indices))
    if out.own == 0:
        return nothing(values, out, shapes)
    best = _maxima(values, indices, dim, cells[cut.domain.rank], wanted[cut.domain.rank][0])
    return tuple(DomainTensor(t, out) for t in best)


def _maxima(values: Tensor, indices: Tensor, dim: int, cells: list[Rows], first: int) -> tuple[Tensor, Tensor]:
    """The maximum of each cell of rows, which are counted from `first`, and its index."""
    longest = max(end - begin for begin, end in cells)
    # A cell that is shorter has its last row more than once.
    rows = [min(begin + k, end - 1) - first for begin, end in cells for k in range(longest)]
    selection = torch.tensor(rows, device=values.device)
    shape = (len(cells), longest)
    values, indices = (t.index_select(dim, selection).unflatten(dim, shape) for t in (values, indices))
    best = values.amax(dim + 1, keepdim=True)
    undefined = best != best
    at = torch.where(values == best, indices, torch.iinfo(torch.int64).max).amin(dim + 1, keepdim=True)
    last = torch.where(values != values, indices, -1).amax(dim + 1, keepdim=True)
    return best.squeeze(dim + 1), torch.where(undefined, last, at).squeeze(dim + 1)


@rule(aten.adaptive_max_pool2d_backward.default, aten.adaptive_max_pool3d_backward.default)
def adaptive_max_pool_backward(op: Any, grad: Tensor, x: Tensor, indices: Tensor) -> Any:
    """Each rank takes what goes to its own rows."""
    if not isinstance(x, DomainTensor) or x.numel() == 0:
        return uncut(op, (grad, x, indices), {})
    n = spatial_dimensions(op)
    if x._cut.dim < x.dim() - n:
        return each_backward(op, grad, x, (own_part(indices, x._cut, indices.dim()),))
    local, cut = in_intervals(x)
    results = grad.shape[cut.dim]
    touching = [
        (begin * results // cut.rows, -(-end * results // cut.rows)) if begin < end else (0, 0)
        for begin, end in intervals(cut)
    ]
    return gradient_by_indices(grad, indices, DomainTensor(local, cut), touching, n)
