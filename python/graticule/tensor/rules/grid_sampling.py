"""grid_sample: any place of the input may be asked for, so each rank has it whole and samples its own part of the grid.

Where the batch or the channels are cut, nothing of the input moves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves, report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.support import whole
from graticule.tensor.running import uncut

aten = torch.ops.aten


@rule(aten.grid_sampler_2d.default, aten.grid_sampler_3d.default, aten.cudnn_grid_sampler.default)
def grid_sample(op: Any, x: Tensor, grid: Tensor, *options: Any) -> Any:
    """The result is cut as the grid is, or as x where the grid is whole or x is cut along the batch or channels."""
    if x.shape[0] != grid.shape[0]:
        raise RuntimeError(
            f"{op}: expected grid and input to have the same batch size, got {list(x.shape)} and {list(grid.shape)}"
        )
    out = _output_cut(x, grid)
    if out is None or x.numel() == 0:
        return uncut(op, (x, grid, *options), {})
    x_part, grid_part = _parts(op, x, grid, out)
    if x_part.numel() and grid_part.numel():
        return DomainTensor(op(x_part, grid_part, *options), out)
    return DomainTensor(x_part.new_empty([grid_part.shape[0], x_part.shape[1], *grid_part.shape[1:-1]]), out)


@rule(aten.grid_sampler_2d_backward.default, aten.grid_sampler_3d_backward.default)
def grid_sample_backward(op: Any, grad: Tensor, x: Tensor, grid: Tensor, *rest: Any) -> Any:
    """The gradient of what was whole is summed over the ranks."""
    *options, wanted = rest
    out = _output_cut(x, grid)
    if out is None or x.numel() == 0:
        return uncut(op, (grad, x, grid, *rest), {})
    x_part, grid_part = _parts(op, x, grid, out)
    if x_part.numel() and grid_part.numel():
        of_x, of_grid = op(own_part(grad, out, grad.dim()), x_part, grid_part, *options, wanted)
    else:
        of_x, of_grid = torch.zeros_like(x_part), torch.zeros_like(grid_part)
    if wanted[0]:
        of_x = DomainTensor(of_x, out) if out.dim < 2 else _summed(of_x, x, out)
    if wanted[1]:
        of_grid = _summed(of_grid, grid, out) if out.dim == 1 else DomainTensor(of_grid, _grid_cut(out))
    return of_x if wanted[0] else None, of_grid if wanted[1] else None


@rule(aten.cudnn_grid_sampler_backward.default)
def grid_sample_of_cudnn_backward(op: Any, x: Tensor, grid: Tensor, grad: Tensor) -> Any:
    """CuDNN samples bilinearly, with zeros beyond the edges and corners aligned."""
    bilinear, zeros = 0, 0
    return grid_sample_backward(
        aten.grid_sampler_2d_backward.default, grad, x, grid, bilinear, zeros, True, [True, True]
    )


def _output_cut(x: Tensor, grid: Tensor) -> Cut | None:
    if isinstance(x, DomainTensor) and x._cut.dim < 2:
        return x._cut
    if isinstance(grid, DomainTensor):
        cut = grid._cut
        return None if cut.dim == grid.dim() - 1 else cut.at(cut.dim + (cut.dim > 0))
    if not isinstance(x, DomainTensor):
        return None
    return Cut.balanced(x._cut.domain, x._cut.dim, grid.shape[x._cut.dim - 1])


def _grid_cut(out: Cut) -> Cut:
    return out.at(out.dim - (out.dim > 0))


def _parts(op: Any, x: Tensor, grid: Tensor, out: Cut) -> tuple[Tensor, Tensor]:
    """What a rank needs of x and of the grid for its part of the result."""
    if out.dim == 1:
        return own_part(x, out, x.dim()), whole(grid)
    grid_part = own_part(grid, _grid_cut(out), grid.dim())
    if out.dim == 0:
        return own_part(x, out, x.dim()), grid_part
    if not isinstance(x, DomainTensor):
        return x, grid_part
    report.refuse_gather(op)
    return moves.gather(x._local, x._cut), grid_part


def _summed(part: Tensor, t: Tensor, out: Cut) -> Tensor:
    """The gradient of t, which every rank had whole: cut as t is."""
    total = moves.reduce_sum(part, out.domain)
    return DomainTensor(t._cut.part_of(total).contiguous(), t._cut) if isinstance(t, DomainTensor) else total
