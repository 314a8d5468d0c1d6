"""The PyTorch layer of a row, and the same layer cut by graticule."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.shapes import Shape
from graticule import Domain, PeriodicConv2d
from graticule.domain_parallel import (
    DomainParallelConv2d,
    DomainParallelConv3d,
    DomainParallelConvTranspose2d,
    DomainParallelConvTranspose3d,
    DomainParallelGroupNorm,
    DomainParallelInterpolate,
    DomainParallelPeriodicConv2d,
)


class Interpolate(nn.Module):
    """Bilinear interpolation to a size."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False)


def kernel_of(shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride and padding, one entry a spatial dimension."""
    if not shape.times:
        return (shape.kernel,) * 2, (shape.stride,) * 2, (shape.padding,) * 2
    times = (shape.time_kernel,)
    return times + (shape.kernel,) * 2, times + (shape.stride,) * 2, (0, *(shape.padding,) * 2)


def serial_layer(shape: Shape) -> nn.Module:
    """The uncut layer, with the same parameters on every rank."""
    torch.manual_seed(0)
    if shape.layer == "interpolate":
        assert shape.output_size is not None
        return Interpolate(shape.output_size)
    if shape.layer == "group_norm":
        return nn.GroupNorm(shape.groups, shape.channels)
    if shape.layer == "periodic_conv":
        return PeriodicConv2d(shape.channels, shape.outputs, shape.kernel, shape.padding)
    transposed = shape.layer == "conv_transpose"
    kinds = (nn.ConvTranspose2d, nn.ConvTranspose3d) if transposed else (nn.Conv2d, nn.Conv3d)
    normed = shape.layer == "conv_group_norm"
    # A norm takes the mean away, and a bias with it: its gradient would be rounding and nothing else.
    conv = kinds[shape.dims - 2](shape.channels, shape.outputs, *kernel_of(shape), bias=not normed)
    return nn.Sequential(conv, nn.GroupNorm(shape.groups, shape.outputs)) if normed else conv


def local_layer(module: nn.Module, output_rows: int) -> Callable[[Tensor], Tensor]:
    """The same layer on a shard, with no communication: for interpolation to the shard's own rows of the output."""
    if isinstance(module, Interpolate):
        return Interpolate((output_rows, module.size[1]))
    return module


def cut_layer(module: nn.Module, shape: Shape, domain: Domain) -> nn.Module:
    """The layer over `domain`, which is told the rows of the whole grid."""
    if isinstance(module, nn.Sequential):
        conv, norm = module
        return nn.Sequential(
            DomainParallelConv2d(conv, domain=domain, rows=shape.rows),
            DomainParallelGroupNorm(norm, domain=domain, rows=shape.output_rows),
        )
    if isinstance(module, Interpolate):
        return DomainParallelInterpolate(module.size, "bilinear", align_corners=False, domain=domain, rows=shape.rows)
    kinds = {
        nn.Conv2d: DomainParallelConv2d,
        nn.Conv3d: DomainParallelConv3d,
        nn.ConvTranspose2d: DomainParallelConvTranspose2d,
        nn.ConvTranspose3d: DomainParallelConvTranspose3d,
        nn.GroupNorm: DomainParallelGroupNorm,
        PeriodicConv2d: DomainParallelPeriodicConv2d,
    }
    return kinds[type(module)](module, domain=domain, rows=shape.rows)
