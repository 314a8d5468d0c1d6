"""Convolutions, transposed ones too: by graticule's own op where a spatial dimension is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves, report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.merging import gradients
from graticule.tensor.rules.norms import are_plain, uncut_backward
from graticule.tensor.rules.pointwise import own_part
from graticule.tensor.rules.sliding import output_cut, whole_shapes
from graticule.tensor.rules.support import whole
from graticule.tensor.running import uncut

aten = torch.ops.aten
_ops = torch.ops.graticule


@rule(aten.convolution.default)
def convolution(op: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Any:
    """Rows of the result by its balanced cut, or by x's where the result has as many rows."""
    if not _takes(x, weight, bias):
        return NotImplemented
    _check_channels(x, weight, options)
    (shape,) = whole_shapes(op, x, weight, bias, *options)
    options = _one_each(options, x.dim() - 2)
    _check_output(x, shape, options)
    local, cut = _part(x)
    if cut.dim == 0:
        return DomainTensor(op(local, weight, bias, *options), cut)
    out = output_cut(cut, shape[cut.dim])
    if local.numel() and _is_row_by_row(weight, options, cut.dim):
        return DomainTensor(op(local, weight, bias, *options), out)
    with report.move("halo", cut.domain):
        return DomainTensor(_ops.convolution(local, weight, bias, *options, *_placement(cut, out)), out)


@rule(aten.convolution_backward.default)
def convolution_backward(
    op: Any, grad: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, *rest: Any
) -> tuple[Tensor | None, ...]:
    """The gradient of x is cut as x was for forward; those of weight and bias are whole on every rank."""
    *options, wanted = rest
    if not _takes(x, weight, None) or x.dtype != grad.dtype:
        if are_plain(weight):
            return uncut_backward(op, grad, x, weight, bias_sizes, *rest)
        of_x, of_weight, of_bias = uncut(op, (grad, x, weight, bias_sizes, *rest), {})
        return of_x, of_weight, whole(of_bias)
    local, cut = _part(x)
    if cut.dim == 0:
        grad_part = own_part(grad, cut, grad.dim())
        parts = op(grad_part, local, weight, bias_sizes, *options, wanted)
        return gradients(parts, wanted, cut)
    out = output_cut(cut, grad.shape[cut.dim])
    grad_part = own_part(grad, out, grad.dim())
    arguments = (*_one_each(tuple(options), x.dim() - 2), *_placement(cut, out), "zeros", "zeros")
    with report.move("halo", cut.domain):
        # Forward kept no rows of the others: below autograd nobody says for whom.
        kept = _ops.convolution_halo(local, weight, *arguments) if wanted[1] else (local.new_empty(0),) * 2
        parts = _ops.convolution_backward(grad_part, local, *kept, weight, *arguments, wanted)
    return gradients(parts, wanted, cut)


def _check_channels(x: Any, weight: Tensor, options: Any) -> None:
    *_, transposed, _, groups = options
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if x.shape[1] != channels:
        domain = x._cut.domain
        raise RuntimeError(
            f"convolution: rank {domain.rank} of {domain.size}: expected an input of {channels} channels, for a weight "
            f"of {list(weight.shape)} and groups={groups}, got {list(x.shape)}"
        )


def _check_output(x: Any, shape: Sequence[int], options: tuple) -> None:
    """RuntimeError where torch's kernels have one, and its shapes alone do not tell."""
    stride, _, dilation, transposed, more, _ = options
    too_much = transposed and any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True))
    if min(shape[2:]) < 1 or too_much:
        domain = x._cut.domain
        raise RuntimeError(
            f"convolution: rank {domain.rank} of {domain.size}: expected an output of at least one value in each "
            f"dimension, and output padding smaller than stride or dilation, got {list(shape)} and {list(more)}"
        )


def _one_each(options: tuple, dims: int) -> tuple:
    """The options with one value a spatial dimension; torch takes one for all, and gives one for padding="valid"."""
    return tuple(list(o) * dims if isinstance(o, (list, tuple)) and len(o) == 1 else o for o in options)


def _is_row_by_row(weight: Tensor, options: tuple, dim: int) -> bool:
    """Whether every row along `dim` is made of the same one of the input."""
    stride, padding, _, transposed, *_ = options
    return not transposed and weight.shape[dim] == 1 and stride[dim - 2] == 1 and padding[dim - 2] == 0


def _takes(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if not isinstance(x, DomainTensor) or isinstance(weight, DomainTensor) or isinstance(bias, DomainTensor):
        return False
    same_type = x.dtype == weight.dtype and (bias is None or bias.dtype == x.dtype)
    return same_type and x.is_floating_point() and 3 <= x.dim() <= 5 and x.numel() > 0 and weight.numel() > 0


def _part(x: Any) -> tuple[Tensor, Cut]:
    """The rank's part of x, cut in intervals along the batch or a spatial dimension."""
    cut = x._cut
    if cut.dim == 0 or cut.dim != 1 and cut.is_interval:
        return x._local, cut if cut.dim == 0 else cut.flat()
    dim = cut.dim
    if dim == 1:
        dim = max((d for d in range(x.dim()) if d != 1), key=lambda d: x.shape[d])
    new = Cut.balanced(cut.domain, dim, x.shape[dim])
    return moves.recut(x._local, cut, new), new


def _placement(cut: Cut, out: Cut) -> tuple[Any, ...]:
    return cut.offsets, out.offsets, cut.dim, cut.domain.group_name, "convolution"
