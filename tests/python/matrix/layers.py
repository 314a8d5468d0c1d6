"""A serial layer and its cut one, for a case of the matrix."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from graticule import PeriodicConv2d
from graticule.domain_parallel import layers
from matrix.cases import Case

CHANNELS = 8

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CUT = {
    nn.Conv1d: layers.DomainParallelConv1d,
    nn.Conv2d: layers.DomainParallelConv2d,
    nn.Conv3d: layers.DomainParallelConv3d,
    nn.ConvTranspose1d: layers.DomainParallelConvTranspose1d,
    nn.ConvTranspose2d: layers.DomainParallelConvTranspose2d,
    nn.ConvTranspose3d: layers.DomainParallelConvTranspose3d,
    nn.GroupNorm: layers.DomainParallelGroupNorm,
    PeriodicConv2d: layers.DomainParallelPeriodicConv2d,
}


@dataclasses.dataclass
class Subject:
    """What a case compares: `serial(x)` against `cut(module, domain)(x)`."""

    module: nn.Module
    shape: list[int]  # of the whole input, batched
    dim: int
    cut: Callable[[nn.Module, Any], Callable[[Tensor], Tensor]]
    serial: Callable[[Tensor], Tensor]


class Interpolate(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, **self.options)


def _groups(case: Case) -> int:
    return CHANNELS if case["groups"] == "depthwise" else case["groups"]


def _shape(case: Case, dims: int, rng: random.Random, smallest: int = 4) -> tuple[list[int], int]:
    spatial = [rng.randint(smallest, smallest + 4) for _ in range(dims)]
    # H of (T, H, W) most of the time, as in weather models; another dimension now and then.
    axis = rng.choice([1, 1, 0, 2]) if dims == 3 else rng.choice([0, 0, 1]) if dims == 2 else 0
    spatial[axis] = case["rows"]
    return [2, CHANNELS, *spatial], axis + 2


def build(layer: str, case: Case, seed: int) -> Subject:
    rng = random.Random(seed)
    return {
        "conv": _conv,
        "conv_transpose": _conv_transpose,
        "group_norm": _group_norm,
        "periodic_conv": _periodic_conv,
        "interpolate": _interpolate,
    }[layer](case, rng)


def _wrapped(module: nn.Module, shape: list[int], dim: int, *args: Any) -> Subject:
    def cut(own: nn.Module, domain: Any) -> Callable[[Tensor], Tensor]:
        layer = CUT[type(own)](own, dim - len(shape), domain=domain)
        return lambda x: layer(x, *args)

    return Subject(module, shape, dim, cut, lambda x: module(x, *args))


def _conv(case: Case, rng: random.Random) -> Subject:
    dims = case["dims"]
    kernel = [rng.choice([1, 2, 3]) for _ in range(dims)]
    stride = [rng.choice([1, 2]) for _ in range(dims)]
    dilation = [rng.choice([1, 2]) for _ in range(dims)]
    shape, dim = _shape(case, dims, rng)
    kernel[dim - 2], stride[dim - 2], dilation[dim - 2] = case["kernel"], case["stride"], case["dilation"]
    padding = case["padding"]
    if isinstance(padding, int):
        across = [rng.choice([0, 1, 2]) for _ in range(dims)]
        across[dim - 2] = padding
        padding = across
    elif padding == "same":
        stride = [1] * dims
    if max(kernel) == 1 and max(stride) > 1 and dims > 1:
        # PyTorch's own backward of such a convolution, channels_last, writes beyond its memory where rows are left
        # over.
        kernel[(dim - 1) % dims] = 2
    module = CONV[dims](
        CHANNELS,
        2 * CHANNELS,
        kernel,
        stride,
        padding,
        dilation,
        _groups(case),
        case["bias"],
        case["padding_mode"],
    )
    return _wrapped(module, shape, dim)


def _conv_transpose(case: Case, rng: random.Random) -> Subject:
    dims = case["dims"]
    kernel = [rng.choice([1, 2, 3]) for _ in range(dims)]
    stride = [rng.choice([1, 2]) for _ in range(dims)]
    dilation = [rng.choice([1, 2]) for _ in range(dims)]
    shape, dim = _shape(case, dims, rng)
    kernel[dim - 2], stride[dim - 2], dilation[dim - 2] = case["kernel"], case["stride"], case["dilation"]
    padding = [0] * dims
    padding[dim - 2] = case["padding"]
    output_padding = [0] * dims
    args = []
    if case["output_padding"] == "output_size":
        sizes = [
            (shape[i + 2] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(dims)
        ]
        args = [[size + rng.randrange(s) for size, s in zip(sizes, stride, strict=True)]]
    else:
        output_padding[dim - 2] = case["output_padding"]
    module = CONV_TRANSPOSE[dims](
        CHANNELS, 2 * CHANNELS, kernel, stride, padding, output_padding, _groups(case), case["bias"], dilation
    )
    return _wrapped(module, shape, dim, *args)


def _group_norm(case: Case, rng: random.Random) -> Subject:
    shape, dim = _shape(case, case["dims"], rng)
    # Groups of a handful of values make the gradient a difference of nearly equal numbers, in any order of summation.
    if case["dims"] == 1:
        shape[dim] = max(shape[dim], 16)
    module = nn.GroupNorm(case["groups"], CHANNELS, affine=case["affine"])
    if case["affine"]:
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    return _wrapped(module, shape, dim)


def _periodic_conv(case: Case, rng: random.Random) -> Subject:
    module = PeriodicConv2d(CHANNELS, 2 * CHANNELS, case["kernel"], case["padding"])
    module.conv = nn.Conv2d(CHANNELS, 2 * CHANNELS, case["kernel"], case["stride"], bias=case["bias"])
    return _wrapped(module, [2, CHANNELS, case["rows"], rng.randint(5, 8)], 2)


def _interpolate(case: Case, rng: random.Random) -> Subject:
    mode, dims = case["mode"]
    shape, dim = _shape(case, dims, rng, smallest=2)
    if case["across"] == "many" and dims > 1:
        shape[3 if dim == 2 else 2] = rng.randint(100, 140)
    target = case["target"]
    options: dict[str, Any] = {"mode": mode}
    weighted = mode in ("linear", "bilinear", "bicubic", "trilinear")
    if weighted:
        options["align_corners"] = case["align_corners"]
    if mode in ("bilinear", "bicubic"):
        options["antialias"] = case["antialias"]
    if isinstance(target, int):
        size = [rng.randint(2, 9) for _ in range(dims)]
        size[dim - 2] = target
        options["size"] = size
    else:
        scale = [rng.choice([0.5, 1.0, 1.3, 2.0]) for _ in range(dims)]
        scale[dim - 2] = target
        options["scale_factor"] = scale
        options["recompute_scale_factor"] = case["recompute"]
    module = Interpolate(**options)

    def cut(own: nn.Module, domain: Any) -> Callable[[Tensor], Tensor]:
        return layers.DomainParallelInterpolate(shard_dim=dim - len(shape), domain=domain, **options)

    return Subject(module, shape, dim, cut, module)
