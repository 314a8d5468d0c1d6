"""Convolutions and cuts to compare bit for bit, and their uncut layers."""

import dataclasses
import itertools
import random
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from matrix.layers import CONV, CONV_TRANSPOSE

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclasses.dataclass(frozen=True)
class BitCase:
    """A convolution and a cut. Rows lie in the last but one dimension, of a 1-D tensor in the last."""

    transposed: bool
    dims: int
    kernel: int
    stride: int
    dilation: int
    groups: int
    channels: int
    channels_last: bool
    rows: int
    columns: int
    ranks: int

    @property
    def name(self) -> str:
        kind = "conv_transpose" if self.transposed else "conv"
        layout = "channels_last" if self.channels_last else "contiguous"
        return (
            f"{kind}{self.dims}d-k{self.kernel}-s{self.stride}-d{self.dilation}-g{self.groups}-c{self.channels}-{layout}"
            f"-{self.rows}x{self.columns}-{self.ranks}ranks"
        )


def cases() -> Iterator[BitCase]:
    """Every kernel, stride, dilation, kind and number of dimensions; the rest drawn, the same at every run."""
    rng = random.Random("graticule bits")
    for _, dims, transposed, kernel, stride, dilation in itertools.product(
        range(2), (1, 2, 3), (False, True), (1, 2, 3, 4, 5, 7, 32), (1, 2, 3), (1, 2)
    ):
        if dilation * (kernel - 1) >= 48 or (dims == 3 and kernel > 5):
            continue
        # PyTorch's own backward of a channels_last convolution of kernel 1 and stride > 1 writes beyond its memory
        # where rows are left over.
        crashes = kernel == 1 and stride > 1 and not transposed
        for channels_last in (False, True) if dims > 1 and not crashes else (False,):
            for groups in ("one", "some"):
                channels = rng.choice([4, 8, 16] if dims == 3 or kernel > 5 else [4, 8, 16, 32, 64])
                yield BitCase(
                    transposed,
                    dims,
                    kernel,
                    stride,
                    dilation,
                    1 if groups == "one" else rng.choice([2, channels]),
                    channels,
                    channels_last,
                    rng.randint(max(16, dilation * (kernel - 1) + 1), 64),
                    rng.randint(16, 32 if dims == 3 else 90),
                    rng.choice([2, 3, 4]),
                )


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=FORMATS[x.dim()]) if channels_last else x.contiguous()


@dataclasses.dataclass
class Serial:
    """A case's uncut layer, its input, output and their gradients."""

    module: Any
    x: Tensor
    y: Tensor
    g: Tensor
    dim: int


def serial(case: BitCase) -> Serial:
    torch.manual_seed(zlib.crc32(case.name.encode()))
    across = min(case.kernel, 3)
    axis = max(case.dims - 2, 0)
    sizes = {
        "kernel_size": (across, case.kernel),
        "stride": (1, case.stride),
        "padding": (across // 2, case.dilation * (case.kernel - 1) // 2),
        "dilation": (1, case.dilation),
    }
    options: dict[str, Any] = {
        name: [along if d == axis else other for d in range(case.dims)] for name, (other, along) in sizes.items()
    }
    kind = CONV_TRANSPOSE if case.transposed else CONV
    module = kind[case.dims](case.channels, case.channels, groups=case.groups, **options)
    shape = [2, case.channels, *([case.rows] if case.dims == 1 else [3, case.rows, case.columns][3 - case.dims :])]
    x = laid_out(torch.randn(shape), case.channels_last).requires_grad_()
    y = module(x)
    g = laid_out(torch.randn_like(y), case.channels_last)
    y.backward(g)
    return Serial(module, x, y, g, axis + 2)
