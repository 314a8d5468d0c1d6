"""Interpolation: forward by graticule's own op, backward by the adjoints that it is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graticule.tensor import report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.sliding import in_intervals, output_cut, with_rows
from graticule.tensor.running import uncut

aten = torch.ops.aten
_ops = torch.ops.graticule


class _Kind(NamedTuple):
    mode: str
    aligns: bool = True  # whether the op takes align_corners
    antialias: bool = False

    @property
    def row_mode(self) -> str:
        """What resample_rows calls it."""
        name = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(self.mode, self.mode)
        return f"{name}-antialias" if self.antialias else name


_KINDS = {
    "upsample_nearest1d": _Kind("nearest", False),
    "upsample_nearest2d": _Kind("nearest", False),
    "upsample_nearest3d": _Kind("nearest", False),
    "_upsample_nearest_exact1d": _Kind("nearest-exact", False),
    "_upsample_nearest_exact2d": _Kind("nearest-exact", False),
    "_upsample_nearest_exact3d": _Kind("nearest-exact", False),
    "upsample_linear1d": _Kind("linear"),
    "upsample_bilinear2d": _Kind("bilinear"),
    "upsample_trilinear3d": _Kind("trilinear"),
    "upsample_bicubic2d": _Kind("bicubic"),
    "_upsample_bilinear2d_aa": _Kind("bilinear", antialias=True),
    "_upsample_bicubic2d_aa": _Kind("bicubic", antialias=True),
}


class _Call(NamedTuple):
    """One interpolation, of the whole tensor, forward or backward."""

    kind: _Kind
    before: list[int]  # spatial sizes
    after: list[int]
    align: bool
    scales: list[float | None]

    def can_be_cut(self, x: Tensor, dim: int) -> bool:
        """Whether rows can be taken by themselves; ATen decides a few cases by the sizes of all dimensions."""
        if self.kind.antialias and self.after[-1] == 1 or x.numel() == 0 or not x.is_floating_point():
            return False
        if x.device.type == "cpu":
            return True
        kept = zip(self.before, self.after, self.scales, strict=True)
        if any(n == m and scale not in (None, 1.0) for n, m, scale in kept):
            return False
        if self.kind.mode != "bicubic" and not self.kind.antialias:
            return True
        across = 5 - dim - 2
        return not self.kind.antialias and (self.scales[across] is None or self.before[across] != self.after[across])


def _parse(op: Any, before: Any, after: Any, options: Any) -> _Call:
    kind = _KINDS[op._schema.name.partition("::")[2].removesuffix("_backward")]
    given = list(options)
    align = bool(given.pop(0)) if kind.aligns else False
    scales = (given + [None] * len(after))[: len(after)]
    return _Call(kind, list(before), list(after), align, scales)


def _forward(op: Any, x: DomainTensor, size: Any, *options: Any) -> Any:
    """Each rank makes its rows of the result, cut like x where there are as many."""
    first = x.dim() - len(size)
    call = _parse(op, x.shape[first:], size, options)
    dim = x._cut.dim
    if dim < first:
        if x._local.numel():
            return DomainTensor(op(x._local, size, *options), x._cut)
        return DomainTensor(x._local.new_empty([*x._local.shape[:first], *size]), x._cut)
    by_factor = all(s is not None for s in call.scales)
    if by_factor:
        rounded = [math.floor(float(n) * s) for n, s in zip(call.before, call.scales, strict=True)]  # type: ignore
        fits = rounded == call.after
    else:
        fits = all(s is None for s in call.scales)
    if not fits or not call.can_be_cut(x, dim):
        return uncut(op, (x, size, *options), {})  # its parts round otherwise
    local, cut = in_intervals(x)
    out = output_cut(cut, call.after[dim - first])
    with report.move("halo", cut.domain):
        result = _ops.interpolate(
            local,
            [] if by_factor else call.after,
            call.scales if by_factor else [],
            call.kind.mode,
            call.align if call.kind.aligns else None,
            None,
            call.kind.antialias,
            cut.offsets,
            out.offsets,
            dim,
            cut.domain.group_name,
            "interpolate",
        )
    return DomainTensor(result, out)


def _backward(op: Any, grad: DomainTensor, after: Any, shape: Any, *options: Any) -> Any:
    """The gradient of the input, cut like grad where it has as many rows."""
    first = len(shape) - len(after)
    call = _parse(op, shape[first:], after, options)
    dim = grad._cut.dim
    if dim < first:
        part = grad._local
        sizes = with_rows(shape, dim, part.shape[dim])
        result = op(part, after, sizes, *options) if part.numel() else part.new_empty(sizes)
        return DomainTensor(result, grad._cut)
    if not call.can_be_cut(grad, dim):
        return uncut(op, (grad, after, shape, *options), {})
    local, out = in_intervals(grad)
    if call.kind.mode == "bicubic" and not call.kind.antialias and call.before == call.after:
        # ATen's backward then copies, whatever the factors.
        return DomainTensor(local.clone(), out)
    cut = output_cut(out, call.before[dim - first])
    wide = local if local.dtype == torch.float64 else local.float()
    adjoint = _plane_adjoint if local.dim() == 4 and local.device.type == "cpu" else _adjoint_in_two
    with report.move("halo", cut.domain):
        result = adjoint(op, call, wide, cut, out, list(shape), options)
    return DomainTensor(result.to(local.dtype), cut)


def _plane_adjoint(op: Any, call: _Call, grad: Tensor, cut: Cut, out: Cut, shape: list[int], options: Any) -> Tensor:
    """Of rows and columns at once; what is cut counts as rows."""
    swap = cut.dim == 3
    along, across = (1, 0) if swap else (0, 1)
    t = grad.transpose(2, 3).contiguous() if swap else grad
    result = _ops.resample_plane_adjoint(
        t,
        call.kind.row_mode,
        call.align,
        call.scales[along],
        [call.before[across], call.after[across]],
        call.scales[across],
        not t.is_contiguous(),
        cut.offsets,
        out.offsets,
        cut.domain.group_name,
        "interpolate",
    )
    return result.transpose(2, 3).contiguous() if swap else result


def _adjoint_in_two(op: Any, call: _Call, grad: Tensor, cut: Cut, out: Cut, shape: list[int], options: Any) -> Tensor:
    """Along the cut, then across it: there the cut dimension stays as it is."""
    first = grad.dim() - len(call.after)
    mode = call.kind.row_mode
    # Weights of zero count: in a dimension that keeps its size, and none where the cut one is to keep it.
    by_one = grad.device.type == "cpu" and mode == "linear"
    across = [i for i in range(len(call.after)) if i != cut.dim - first]
    alone = by_one and any(call.before[i] == call.after[i] for i in across)

    def adjoint(t: Tensor, i: int, mode: str, cut: Sequence[int], out: Sequence[int], group: str) -> Tensor:
        return _ops.resample_rows_adjoint(
            t, mode, call.align, call.scales[i], not grad.is_contiguous(), cut, out, first + i, group, "interpolate"
        )

    rows = adjoint(
        grad, cut.dim - first, "linear-with-zeros" if alone else mode, cut.offsets, out.offsets, cut.domain.group_name
    )
    if not by_one:
        return _across_by_aten(op, call, rows, cut, shape)
    for i in across:
        if call.before[i] != call.after[i]:
            rows = adjoint(rows, i, mode, [0, call.before[i]], [0, call.after[i]], "")
    return rows


def _across_by_aten(op: Any, call: _Call, rows: Tensor, cut: Cut, shape: list[int]) -> Tensor:
    sizes = with_rows(shape, cut.dim, cut.own)
    factors = with_rows(call.scales, cut.dim - (rows.dim() - len(call.after)), None)  # type: ignore[arg-type]
    if list(rows.shape) == sizes and not any(s is not None for s in factors):
        return rows
    if rows.numel() == 0:
        return rows.new_empty(sizes)
    flags = [call.align] if call.kind.aligns else []
    return op(rows, list(rows.shape[-len(call.after) :]), sizes, *flags, *factors)


for _name in _KINDS:
    rule(getattr(aten, _name).default)(_forward)
    rule(getattr(aten, f"{_name}_backward").default)(_backward)
