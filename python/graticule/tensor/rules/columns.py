"""torch.nn.functional.unfold and fold: im2col and col2im, whose places are rows and columns merged."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.sliding import (
    Sliding,
    as_list,
    embedded,
    in_intervals,
    intervals,
    output_cut,
    rows_of,
    whole_shapes,
    with_rows,
)
from graticule.tensor.running import uncut

aten = torch.ops.aten


def _windows(sizes: Any, options: Any) -> list[Sliding]:
    """The windows along the last two dimensions of an image of these sizes."""
    kernel, dilation, padding, stride = (as_list(option, 2) for option in options)
    return [
        Sliding(n, (n + 2 * p - d * (k - 1) - 1) // s + 1, k, s, p, d)
        for n, k, d, p, s in zip(sizes, kernel, dilation, padding, stride, strict=True)
    ]


def _window_options(options: Any, i: int) -> list[Any]:
    """The options for whole windows along spatial dimension i: no padding there."""
    kernel, dilation, padding, stride = (as_list(option, 2) for option in options)
    return [kernel, dilation, with_rows(padding, i, 0), stride]


def _places(cut: Cut, windows: list[Sliding], i: int) -> Cut:
    """The cut of the merged dimension of all windows, of which those along spatial dimension i are cut."""
    return Cut(
        cut.domain,
        cut.dim - i,
        cut.offsets,
        outer=1 if i == 0 else windows[0].results,
        inner=windows[1].results if i == 0 else 1,
    )


@rule(aten.im2col.default)
def im2col(op: Any, x: DomainTensor, *options: Any) -> Any:
    """The windows of an image; a rank has those of its balanced rows of windows, or of x's rows where as many."""
    if x.numel() == 0:
        return uncut(op, (x, *options), {})
    (shape,) = whole_shapes(op, x, *options)
    first = x.dim() - 2
    if x._cut.dim < first:
        if x._cut.dim == x.dim() - 3:
            # Channels and the places of a kernel are merged.
            return uncut(op, (x, *options), {})
        if x._local.numel():
            return DomainTensor(op(x._local, *options), x._cut)
        return DomainTensor(x._local.new_empty(with_rows(shape, x._cut.dim, 0)), x._cut)
    local, cut = in_intervals(x)
    i = cut.dim - first
    windows = _windows(x.shape[first:], options)
    out = output_cut(cut, windows[i].results)
    wanted = [_whole_windows(windows[i], rows) for rows in intervals(out)]
    window = rows_of(local, cut, wanted, "zeros")
    places = _places(out, windows, i)
    if out.own == 0:
        return DomainTensor(local.new_empty(with_rows(shape, places.dim, 0)), places)
    return DomainTensor(op(window, *_window_options(options, i)), places)


@rule(aten.col2im.default)
def col2im(op: Any, t: DomainTensor, size: Any, *options: Any) -> Any:
    """Sums of windows; a rank makes its balanced rows, or those of t's where as many, from all windows that touch them.

    Windows are taken as rows of windows; where t's cut goes through such rows, it is re-cut.
    """
    if t.numel() == 0:
        return uncut(op, (t, size, *options), {})
    (shape,) = whole_shapes(op, t, size, *options)
    last = t.dim() - 1
    if t._cut.dim < last - 1:
        if t._local.numel():
            return DomainTensor(op(t._local, size, *options), t._cut)
        return DomainTensor(t._local.new_empty(with_rows(shape, t._cut.dim, 0)), t._cut)
    windows = _windows(size, options)
    i, places = _rows_of_places(t, windows)
    parts = moves.recut(t._local, t._cut, places)
    counts = with_rows([w.results for w in windows], i, places.own)
    held = Cut(places.domain, last + i, places.offsets)
    out = output_cut(held, windows[i].rows)
    touching = [windows[i].touching(rows) for rows in intervals(out)]
    part = rows_of(parts.unflatten(last, counts), held, touching)
    begin, end = _whole_windows(windows[i], touching[out.domain.rank])
    if begin == end:
        return DomainTensor(t._local.new_zeros(with_rows(shape, out.dim, out.own)), out)
    rows = op(part.flatten(last), with_rows(size, i, end - begin), *_window_options(options, i))
    return DomainTensor(embedded(rows, out.dim, begin - out.begin, out.own), out)


def _whole_windows(windows: Sliding, results: tuple[int, int]) -> tuple[int, int]:
    """Rows of whole windows, beyond the grid too."""
    begin, end = results
    if begin == end:
        return 0, 0
    first = begin * windows.stride - windows.padding
    return first, (end - 1 - begin) * windows.stride + first + windows.span


def _rows_of_places(t: DomainTensor, windows: list[Sliding]) -> tuple[int, Cut]:
    """The spatial dimension of which t's windows are to be cut, and that cut of the merged dimension."""
    cut, last = t._cut, t.dim() - 1
    heights, widths = (w.results for w in windows)
    if cut.dim == last and cut.outer == heights and cut.inner == 1 and cut.rows == widths:
        return 1, cut
    if cut.dim == last and cut.is_interval and all(offset % widths == 0 for offset in cut.flat().offsets):
        offsets = tuple(offset // widths for offset in cut.flat().offsets)
        return 0, Cut(cut.domain, last, offsets, inner=widths)
    balanced = Cut.balanced(cut.domain, last, heights)
    return 0, Cut(cut.domain, last, balanced.offsets, inner=widths)
