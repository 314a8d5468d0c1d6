"""Pooling windows that slide: each rank computes its own rows of the result from whole windows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.sliding import (
    Rows,
    Sliding,
    as_list,
    cropped,
    embedded,
    gathered,
    in_intervals,
    intervals,
    output_cut,
    rows_of,
    whole_shapes,
    with_rows,
)
from graticule.tensor.running import uncut

aten = torch.ops.aten


def spatial_dimensions(op: Any) -> int:
    """Of an op that pools, by its name."""
    return 3 if "pool3d" in op._schema.name else 2


def _sliding(x: Tensor, n: int, dim: int, results: int, options: Any, dilation: Any = 1) -> Sliding:
    """The windows along `dim`; `options` begin with kernel, stride and padding, of which the last may be missing."""
    kernel, stride, padding = (*options, [], 0)[:3] if len(options) == 1 else (*options, 0)[:3]
    i = dim - (x.dim() - n)
    steps = as_list(stride if stride else kernel, n)
    return Sliding(
        x.shape[dim], results, as_list(kernel, n)[i], steps[i], as_list(padding, n)[i], as_list(dilation, n)[i]
    )


@rule(aten.avg_pool2d.default, aten.avg_pool3d.default)
def avg_pool(op: Any, x: DomainTensor, *options: Any) -> Any:
    """Means of whole windows, by the padding and the divisors that the whole grid has."""
    if x.numel() == 0:
        return uncut(op, (x, *options), {})
    n = spatial_dimensions(op)
    (shape,) = whole_shapes(op, x, *options)
    if x._cut.dim < x.dim() - n:
        return each(op, x, (shape,), options)
    local, cut = in_intervals(x)
    out = output_cut(cut, shape[cut.dim])
    windows = _sliding(x, n, cut.dim, out.rows, options)
    window = rows_of(local, cut, [windows.inputs(rows) for rows in intervals(out)])
    if out.own == 0:
        return nothing(window, out, (shape,))
    skip = windows.extra(intervals(out)[out.domain.rank])
    return DomainTensor(cropped(op(window, *options), cut.dim, skip, out.own), out)


@rule(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default)
def max_pool(op: Any, x: DomainTensor, *options: Any) -> Any:
    """Maxima and their indices in the whole tensor, the serial op's among equals."""
    if x.numel() == 0:
        return uncut(op, (x, *options), {})
    n = spatial_dimensions(op)
    shapes = whole_shapes(op, x, *options)
    if x._cut.dim < x.dim() - n:
        return each(op, x, shapes, options)
    local, cut = in_intervals(x)
    out = output_cut(cut, shapes[0][cut.dim])
    windows = _sliding(x, n, cut.dim, out.rows, options, options[3] if len(options) > 3 else 1)
    wanted = [windows.inputs(rows) for rows in intervals(out)]
    window = rows_of(local, cut, wanted)
    if out.own == 0:
        return nothing(window, out, shapes)
    begin, end = wanted[out.domain.rank]
    skip = windows.extra(intervals(out)[out.domain.rank])
    values, indices = (cropped(t, cut.dim, skip, out.own) for t in op(window, *options))
    return DomainTensor(values, out), DomainTensor(indices_of_whole(indices, x, cut.dim, n, (begin, end)), out)


def each(op: Any, x: DomainTensor, shapes: Any, options: Any) -> Any:
    """Of an op that takes every index of the cut dimension by itself."""
    if x._local.numel() == 0:
        return nothing(x._local, x._cut, shapes)
    results = op(x._local, *options)
    return (
        tuple(DomainTensor(t, x._cut) for t in results) if isinstance(results, tuple) else DomainTensor(results, x._cut)
    )


def nothing(like: Tensor, cut: Cut, shapes: Any) -> Any:
    """Results of no rows: of values, and of indices where two are asked for."""
    kinds = (like.dtype, torch.int64)[: len(shapes)]
    results = [
        DomainTensor(like.new_empty(with_rows(shape, cut.dim, cut.own_size), dtype=kind), cut)
        for shape, kind in zip(shapes, kinds, strict=True)
    ]
    return results[0] if len(results) == 1 else tuple(results)


def indices_of_whole(indices: Tensor, x: Tensor, dim: int, n: int, held: Rows) -> Tensor:
    """Flat indices among the last `n` dimensions of x from those among the same of its rows `held` along `dim`."""
    rows, inner = x.shape[dim], math.prod(x.shape[dim + 1 :])
    count = held[1] - held[0]
    if count == rows:
        return indices
    if dim == x.dim() - n:
        return indices + held[0] * inner
    planes = indices.div(count * inner, rounding_mode="floor")
    return indices + planes.mul_((rows - count) * inner).add_(held[0] * inner)


@rule(aten.avg_pool2d_backward.default, aten.avg_pool3d_backward.default)
def avg_pool_backward(op: Any, grad: Tensor, x: Tensor, *options: Any) -> Any:
    """The gradient of own rows is made of all windows that touch them."""
    if not isinstance(x, DomainTensor) or x.numel() == 0:
        return uncut(op, (grad, x, *options), {})
    n = spatial_dimensions(op)
    if x._cut.dim < x.dim() - n:
        return each_backward(op, grad, x, options)
    local, cut = in_intervals(x)
    windows = _sliding(x, n, cut.dim, grad.shape[cut.dim], options)
    touching = [windows.touching(rows) for rows in intervals(cut)]
    part = gathered(grad, output_cut(cut, windows.results), touching)
    results = touching[cut.domain.rank]
    begin, end = windows.inputs(results)
    if begin == end:
        return DomainTensor(torch.zeros_like(local), cut)
    window = local.new_empty(with_rows(local.shape, cut.dim, end - begin))
    forward = aten.avg_pool3d.default if n == 3 else aten.avg_pool2d.default
    count = whole_shapes(forward, window, *options)[0][cut.dim]
    whole = embedded(part, cut.dim, windows.extra(results), count)
    return DomainTensor(embedded(op(whole, window, *options), cut.dim, begin - cut.begin, cut.own), cut)


@rule(aten.max_pool2d_with_indices_backward.default, aten.max_pool3d_with_indices_backward.default)
def max_pool_backward(op: Any, grad: Tensor, x: Tensor, *rest: Any) -> Any:
    """Each rank takes what goes to its own rows."""
    if not isinstance(x, DomainTensor) or x.numel() == 0:
        return uncut(op, (grad, x, *rest), {})
    *options, indices = rest
    n = spatial_dimensions(op)
    if x._cut.dim < x.dim() - n:
        return each_backward(op, grad, x, (*options, own_part(indices, x._cut, indices.dim())))
    local, cut = in_intervals(x)
    windows = _sliding(x, n, cut.dim, grad.shape[cut.dim], options[:3], options[3])
    touching = [windows.touching(rows) for rows in intervals(cut)]
    return gradient_by_indices(grad, indices, DomainTensor(local, cut), touching, n)


def each_backward(op: Any, grad: Tensor, x: DomainTensor, options: Any) -> DomainTensor:
    """The backward of what takes every index of the cut dimension by itself."""
    part = own_part(grad, x._cut, grad.dim())
    return DomainTensor(op(part, x._local, *options) if part.numel() else torch.zeros_like(x._local), x._cut)


def gradient_by_indices(grad: Tensor, indices: Tensor, x: DomainTensor, touching: list[Rows], n: int) -> DomainTensor:
    """Adds each value of grad to the place in x that its index names, flat among the last `n` dimensions of the whole.

    Only rows `touching` of grad, an interval a rank, name places in that rank's rows.
    """
    cut, local = x._cut, x._local
    out = output_cut(cut, grad.shape[cut.dim])
    part, index = (gathered(t, out, touching) for t in (grad, indices))
    inner = math.prod(local.shape[cut.dim + 1 :])
    row = index.div(inner, rounding_mode="floor")
    plane = row.div(cut.rows, rounding_mode="floor")
    own_row = row - plane * cut.rows - cut.begin
    mine = (own_row >= 0) & (own_row < cut.own)
    place = torch.where(mine, (plane * cut.own + own_row) * inner + index % inner, 0)
    result = local.new_zeros(local.shape)
    if result.numel():
        values = torch.where(mine, part, 0)
        result.flatten(-n).scatter_add_(-1, place.flatten(-n), values.flatten(-n))
    return DomainTensor(result, cut)
