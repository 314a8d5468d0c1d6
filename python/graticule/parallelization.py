"""parallelize(): a model for DomainTensors whose heaviest modules do without dispatch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from graticule.domain import Domain
from graticule.domain_parallel import layers
from graticule.domain_parallel.borrowed import BorrowingLayer, changed_forward
from graticule.tensor import agreed_strides, functions, report
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.eagerly import EagerFunction, eagerly
from graticule.tensor.replicated_view import refuse_out_of_date
from graticule.tensor.rules.merging import gradients
from graticule.tensor.rules.sliding import output_cut

_ops = torch.ops.graticule


def parallelize(model: nn.Module, domain: Any, dim: int = -2) -> nn.Module:
    """Swaps convolutions and group norms for layers that take a DomainTensor straight to the cut kernel.

    Optional: the model computes the same without it. What it saves: the dispatch of each op, forward and backward, and
    in the backward pass of a convolution the rows of other ranks, which such a layer keeps. In place; returns the model
    (or the layer, where the model itself is one); unparallelize() is the way back. State-dict keys and parameters stay
    as they were, so a checkpoint of one is one of the other. A DomainTensor cut otherwise, a plain tensor, other
    padding than zeros on both sides alike, and anything under autocast takes the module's own way. Second derivatives
    are an error. Gradients of parameters are whole, as everywhere with DomainTensors: unlike
    convert_to_domain_parallel, there is nothing to call after backward.

    Args:
        model: the model, the same on every rank.
        domain: what Domain.of takes.
        dim: the cut dimension, counted from the end, so that it means the same for 4 and 5 dimensions; a module of one
            spatial dimension is cut along that.

    """
    return _swapped(model, Domain.of(domain), dim, {})


def unparallelize(model: nn.Module) -> nn.Module:
    """The way back: puts the modules that parallelize() swapped into the model again. In place; returns the model."""
    if isinstance(model, _Fast):
        return model.wrapped
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, _Fast):
                module._modules[name] = child.wrapped
    return model


def _swapped(module: nn.Module, domain: Domain, dim: int, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    result = module
    kind = _FAST.get(type(module))
    if kind is not None and not changed_forward(module, type(module)):
        result = kind(module, dim, domain=domain)
    elif not isinstance(module, BorrowingLayer):
        for name, child in list(module._modules.items()):
            if child is not None:
                module._modules[name] = _swapped(child, domain, dim, done)
    done[id(module)] = result
    return result


class _ConvFunction(EagerFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Tensor, bias: Tensor | None, options: Any, out: Cut, layer: str) -> Tensor:
        cut = x._cut
        ctx.cut, ctx.out = cut, out
        ctx.options = (*options, cut.offsets, out.offsets, cut.dim, cut.domain.group_name, layer, "zeros", "zeros")
        with report.operation(layer), report.move("halo", cut.domain):
            result, before, after = _ops.convolution_with_halo(x._local, weight, bias, *ctx.options)
        # Not its rows alone: a write into x after this is an error at backward.
        ctx.save_for_backward(x, before, after, weight)
        made = DomainTensor(result, out)
        return agreed_strides.settle(torch.ops.aten.convolution.default, (x, weight, bias, *options), {}, made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, before, after, weight = ctx.saved_tensors
        part: Any = functions.as_cut(gradient, ctx.out)
        wanted = list(ctx.needs_input_grad[:3])
        with report.operation("convolution_backward"):
            with report.move("halo", ctx.cut.domain):
                parts = _ops.convolution_backward(part._local, x._local, before, after, weight, *ctx.options, wanted)
            found = gradients(parts, wanted, ctx.cut)
        return *found, None, None, None


class _NormFunction(EagerFunction):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Tensor:
        cut = x._cut
        ctx.cut, ctx.groups, ctx.eps = cut, groups, eps
        with report.operation("GroupNorm"), report.move("reduction", cut.domain):
            result, mean, rstd = _ops.group_norm_forward(
                x._local, weight, bias, groups, eps, cut.offsets, cut.dim, cut.domain.group_name, "GroupNorm"
            )
        ctx.save_for_backward(x, mean, rstd, weight)
        made = DomainTensor(result, cut)
        if not made._strides_are_guessed:
            return made
        samples, channels, *space = cut.global_shape(x._local.shape)
        arguments = (x, weight, bias, samples, channels, math.prod(space), groups, eps)
        return agreed_strides.settle(torch.ops.aten.native_group_norm.default, arguments, {}, (made, None, None))[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, mean, rstd, weight = ctx.saved_tensors
        cut = ctx.cut
        part: Any = functions.as_cut(gradient, cut)
        wanted = list(ctx.needs_input_grad[:3])
        place = (cut.offsets, cut.dim, cut.domain.group_name, "GroupNorm")
        with report.operation("group_norm_backward"):
            with report.move("reduction", cut.domain):
                parts = _ops.group_norm_backward(
                    part._local, x._local, mean, rstd, weight, ctx.groups, ctx.eps, *place, wanted
                )
            found = gradients(parts, wanted, cut)
        return *found, None, None


class _Fast(BorrowingLayer):
    """A cut layer that takes and gives DomainTensors."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The rows that the module's own way would give."""
        if type(input) is DomainTensor:
            return self._of_cut(input, *args, **kwargs)
        return self._uncut(input, *args, **kwargs)

    @eagerly
    def _of_cut(self, x: Any, *args: Any, **kwargs: Any) -> Tensor:
        refuse_out_of_date(type(self.wrapped).__name__, x)
        # Attributes of the local tensor: each of a DomainTensor's own is a call of torch, dispatched.
        if args or kwargs or not self._takes(x._local, x._cut):
            return self._uncut(x, *args, **kwargs)
        return super().forward(x)

    def _takes(self, local: Tensor, cut: Cut) -> bool:
        dims = local.dim()
        weight = self.wrapped._parameters.get("weight")
        return (
            cut.dim == (2 if dims == 3 else self.shard_dim % dims)
            and cut.dim >= 2
            and cut.outer == cut.inner == 1
            and cut.domain == self.domain
            and min(cut.rows, *local.shape[: cut.dim], *local.shape[cut.dim + 1 :]) > 0
            and (weight is None or weight.dtype == local.dtype)
            and not torch.is_autocast_enabled(local.device.type)
        )


class _FastConv(_Fast, layers._ConvBase):
    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        named = {name: value for name, value in kwargs.items() if value is not None}
        return _Fast.forward(self, input, *(a for a in args if a is not None), **named)

    def _takes(self, local: Tensor, cut: Cut) -> bool:
        module: Any = self.wrapped
        before, after = layers.conv_padding(module)
        known = module.padding_mode == "zeros" and before == after and local.dim() == len(module.kernel_size) + 2
        return known and local.shape[1] == module.in_channels and super()._takes(local, cut)

    def _on_cut(self, module: Any, domain: Any, x: Any, *args: Any) -> Tensor:
        cut, weight, local = x._cut, module.weight, x._local
        padding = layers.conv_padding(module, weight.shape[2:])[0]
        stride, dilation, more = (layers.conv_option(module, n) for n in ("stride", "dilation", "output_padding"))
        sizes = []
        for i, (s, p, d, m) in enumerate(zip(stride, padding, dilation, more, strict=True)):
            size = cut.rows if i == cut.dim - 2 else local.shape[2 + i]
            window = d * (weight.shape[2 + i] - 1) + 1
            if module.transposed:
                size = (size - 1) * s - 2 * p + window + m if m < max(s, d) else 0
            else:
                size = (size + 2 * p - window) // s + 1
            sizes.append(size)
        if min(sizes) < 1:
            # Torch's error.
            return self._uncut(x)
        options = (stride, padding, dilation, module.transposed, more, module.groups)
        out = output_cut(cut, sizes[cut.dim - 2])
        return _ConvFunction.apply(x, weight, module.bias, options, out, type(module).__name__)


class _FastGroupNorm(_Fast, layers.DomainParallelGroupNorm):
    def _takes(self, local: Tensor, cut: Cut) -> bool:
        known = 3 <= local.dim() <= 5 and local.shape[1] == self.num_channels
        return known and super()._takes(local, cut)

    def _on_cut(self, module: Any, domain: Any, x: Any, *args: Any) -> Tensor:
        return _NormFunction.apply(x, module.weight, module.bias, module.num_groups, module.eps)


class _FastConv1d(_FastConv, layers.DomainParallelConv1d): ...


class _FastConv2d(_FastConv, layers.DomainParallelConv2d): ...


class _FastConv3d(_FastConv, layers.DomainParallelConv3d): ...


class _FastConvTranspose1d(_FastConv, layers.DomainParallelConvTranspose1d): ...


class _FastConvTranspose2d(_FastConv, layers.DomainParallelConvTranspose2d): ...


class _FastConvTranspose3d(_FastConv, layers.DomainParallelConvTranspose3d): ...


_FAST: dict[type, type] = {
    nn.Conv1d: _FastConv1d,
    nn.Conv2d: _FastConv2d,
    nn.Conv3d: _FastConv3d,
    nn.ConvTranspose1d: _FastConvTranspose1d,
    nn.ConvTranspose2d: _FastConvTranspose2d,
    nn.ConvTranspose3d: _FastConvTranspose3d,
    nn.GroupNorm: _FastGroupNorm,
}
