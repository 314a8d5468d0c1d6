"""Circular padding, whole: it would come apart into writes into a plain tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import agreed_strides, functions, moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.eagerly import EagerFunction
from graticule.tensor.rules.padding import along_and_across, wanted_rows
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.result_cuts import widened


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """torch.nn.functional.pad."""
    sizes = list(reversed(input.shape))
    pairs = [(d, pad[2 * d], pad[2 * d + 1]) for d in range(len(pad) // 2)]
    is_circular = isinstance(input, DomainTensor) and mode == "circular" and not value
    fits = is_circular and 1 <= len(pairs) <= 3 and len(pairs) in (input.dim() - 1, input.dim() - 2)
    if not fits or not all(
        max(before, after) <= sizes[d] + min(before, 0) + min(after, 0) and sizes[d] + before + after > 0
        for d, before, after in pairs
    ):
        return torch.nn.functional.pad(input, pad, mode, value)
    for d, before, after in pairs:
        if before < 0 or after < 0:
            input = input.narrow(-1 - d, max(-before, 0), sizes[d] + min(before, 0) + min(after, 0))
    return _CircularPad.apply(input, [max(width, 0) for width in pad], _interval(input))


def _interval(x: Any) -> Cut:
    cut: Cut = x._cut
    return cut.flat() if cut.is_interval else Cut.balanced(cut.domain, cut.dim, cut.size)


class _CircularPad(EagerFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: list[int], cut: Cut) -> DomainTensor:
        ctx.padding, ctx.cut = padding, cut
        before, after, across = along_and_across(padding, x.dim(), cut.dim)
        local = _wrapped(own_part(x, cut, x.dim()), across)
        if before == 0 and after == 0:
            return DomainTensor(local if any(across) else local.clone(), cut)
        target = widened(cut, before, after)
        begins, ends = wanted_rows(target, before)
        made = DomainTensor(moves.rows(local, cut, begins, ends, "circular"), target)
        return agreed_strides.settle(torch.ops.aten._pad_circular.default, (x, padding), {}, made)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _CircularPadAdjoint.apply(gradient, ctx.padding, ctx.cut), None, None


class _CircularPadAdjoint(EagerFunction):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, padding: list[int], cut: Cut) -> DomainTensor:
        ctx.padding, ctx.cut = padding, cut
        ndim = gradient.dim()
        before, after, across = along_and_across(padding, ndim, cut.dim)
        along = before != 0 or after != 0
        if along and isinstance(gradient, DomainTensor) and gradient._cut.dim == cut.dim and gradient._cut.is_interval:
            target, local = gradient._cut.flat(), gradient._local
        else:
            target = widened(cut, before, after) if along else cut
            local = own_part(gradient, target, ndim)
        if along:
            local = moves.fold(local, cut, *wanted_rows(target, before), "circular")
        local = _folded(local, across)
        return DomainTensor(local if any(padding) else local.clone(), cut)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _CircularPad.apply(gradient, ctx.padding, ctx.cut), None, None


def _wrapped(t: Tensor, padding: list[int]) -> Tensor:
    for d, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True)):
        rows = t.shape[-1 - d]
        if before or after:
            t = torch.cat([t.narrow(-1 - d, rows - before, before), t, t.narrow(-1 - d, 0, after)], -1 - d)
    return t


def _folded(t: Tensor, padding: list[int]) -> Tensor:
    for d, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True)):
        dim = -1 - d
        rows = t.shape[dim] - before - after
        if before or after:
            core = t.narrow(dim, before, rows).clone()
            core.narrow(dim, rows - before, before).add_(t.narrow(dim, 0, before))
            core.narrow(dim, 0, after).add_(t.narrow(dim, before + rows, after))
            t = core
    return t


functions.replaced[torch.nn.functional.pad] = pad
