"""Fourier transforms: local where the cut dimension is not transformed, by an all-to-all there and back where it is."""

from __future__ import annotations

from typing import Any

import torch

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.support import wrapped

aten = torch.ops.aten


@rule(aten._fft_r2c.default, aten._fft_c2r.default, aten._fft_c2c.default)
def transform(op: Any, x: Any, dim: list[int], *options: Any) -> Any:
    """Cut as x is; balanced where the transform changes the number of rows."""
    if not isinstance(x, DomainTensor) or x.numel() == 0:
        return NotImplemented
    cut = x._cut
    dims = {wrapped(d, x.dim()) for d in dim}
    if cut.dim not in dims:
        return DomainTensor(_of_rows(op, x._local, cut, dim, options), cut)
    others = [d for d in range(x.dim()) if d not in dims and x.shape[d] > 1]
    if not others:
        return NotImplemented
    across = max(others, key=lambda d: x.shape[d])
    other = Cut.balanced(cut.domain, across, x.shape[across])
    local = moves.recut(x._local, cut, other)
    result = _of_rows(op, local, other, dim, options)
    back = cut if result.shape[cut.dim] == cut.size else Cut.balanced(cut.domain, cut.dim, result.shape[cut.dim])
    return DomainTensor(moves.recut(result, other, back), back)


def _of_rows(op: Any, local: torch.Tensor, cut: Cut, dim: list[int], options: Any) -> torch.Tensor:
    """The op on a part that may have no rows, of which the transforms' libraries make nothing."""
    if cut.own:
        return op(local, dim, *options)
    one = list(local.shape)
    one[cut.dim] = 1
    return op(local.new_zeros(one), dim, *options).narrow(cut.dim, 0, 0)
