"""The layers of `credit.domain_parallel.layers`, and their one-dimensional kin.

What holds for each of them:

- It takes this rank's rows and gives this rank's rows of what the wrapped module gives on the whole tensor, in its
  dtype and memory format. All ranks of the domain must call. Without a domain, or on one rank, it is the wrapped
  module.
- `shard_dim` is the cut dimension, counted from the end where negative, else in the batched layout. `domain` is what
  graticule.Domain.of takes, the process-wide manager unless given. `rows` is the whole input's number of rows, or the
  offsets of its cut; exchanged unless given.
- The gradient of its input is whole; that of a parameter is this rank's part (see sync_domain_gradients).
- TypeError for a module of another kind, or with a forward of its own. ValueError or TypeError on every rank, before
  any message, for what every rank can see: dimensions, channels, dtype, a window larger than the grid. RuntimeError on
  every rank within GRATICULE_TIMEOUT seconds where ranks differ.
"""

from __future__ import annotations

import functools
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from graticule.compiling import fixed_shape
from graticule.domain import Domain
from graticule.domain_parallel.borrowed import BorrowingLayer, call_as, cut_dimension, refuse_changed_forward
from graticule.domain_parallel.cuts import RowCuts, Rows
from graticule.domain_parallel.halo_exchange import HaloExchange
from graticule.domain_parallel.manager import active_domain


def _as_list(value: Any, count: int) -> list:
    """One a spatial dimension; a single one is for all."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return values * count if len(values) == 1 else values


def _plain_error(expected: str, got: Any) -> Exception:
    return ValueError(f"expected {expected}, got {got!r}")


Error = Callable[[str, Any], Exception]


def conv_option(conv: Any, name: str, error: Error = _plain_error) -> list[int]:
    """An option of a convolution, one number a spatial dimension, of whatever torch takes for it."""
    value, count = getattr(conv, name), len(conv.kernel_size)
    numbers = _as_list(value, count)
    if not all(hasattr(number, "__index__") for number in numbers):
        raise error(f"{name} to be a whole number or {count} of them", value)
    return numbers


def conv_kernel(conv: Any) -> Sequence[int]:
    """The window's sizes: those of the weight, as torch sees it, unless that is yet to be made."""
    weight = conv._parameters.get("weight")
    return conv.kernel_size if weight is None or is_lazy(weight) else weight.shape[2:]


def conv_padding(
    conv: Any, kernel: Sequence[int] | None = None, error: Error = _plain_error
) -> tuple[list[int], list[int]]:
    """Rows and columns that a convolution pads before and after, one entry a spatial dimension.

    "same" puts the odd one after, as torch.nn.Conv2d does.
    """
    if conv.padding_mode != "zeros":
        # Made when the module is, for the last dimension first; torch pads by it, whatever becomes of `padding`.
        pairs = list(conv._reversed_padding_repeated_twice)
        return pairs[::2][::-1], pairs[1::2][::-1]
    if conv.padding == "valid":
        return [0] * len(conv.kernel_size), [0] * len(conv.kernel_size)
    if conv.padding == "same":
        if any(stride != 1 for stride in conv_option(conv, "stride", error)):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        sizes = conv_kernel(conv) if kernel is None else kernel
        totals = [d * (k - 1) for d, k in zip(conv_option(conv, "dilation", error), sizes, strict=True)]
        return [t // 2 for t in totals], [t - t // 2 for t in totals]
    padding = conv_option(conv, "padding", error)
    return padding, padding


def conv_halo_width(kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Rows needed from the wider side at a cut that lines up with the stride."""
    return max(padding, dilation * (kernel - 1) + 1 - stride - padding, 0)


def conv_transpose_halo_width(kernel: int, stride: int, padding: int, dilation: int) -> int:
    """The same for a transposed convolution, in rows of its input."""
    return max((dilation * (kernel - 1) - padding) // stride, -(-padding // stride), 0)


# Whether a tensor has a batch dimension, the cut one of the batched tensor, stride, padding before and after, dilation.
_Resolved = tuple[bool, int, list[int], list[int], list[int], list[int]]


class _ConvBase(BorrowingLayer):
    """What convolutions and transposed convolutions share."""

    def __init__(self, conv: Any, shard_dim: int, domain: Any, rows: Rows, kind: Any) -> None:
        if not isinstance(conv, kind):
            raise TypeError(f"{type(self).__name__}: expected a {kind.__name__}, got {type(conv).__name__}")
        refuse_changed_forward(type(self).__name__, conv, kind)
        super().__init__("conv", conv, shard_dim, domain, rows)
        spatial = len(conv.kernel_size)
        i = cut_dimension(shard_dim, spatial + 2, type(self).__name__) - 2
        stride, dilation = (conv_option(conv, name)[i] for name in ("stride", "dilation"))
        halo = self._halo_of(conv_kernel(conv)[i], stride, conv_padding(conv)[0][i], dilation)
        object.__setattr__(self, "_halo", halo)
        # Not a child: a converted model's modules are the unconverted one's.
        object.__setattr__(self, "halo_exchange", HaloExchange(halo, shard_dim, domain=domain))

    @staticmethod
    def _halo_of(kernel: int, stride: int, padding: int, dilation: int) -> int:
        raise NotImplementedError


class _Conv(_ConvBase):
    # The facts of the last call, and what follows from them. They change seldom, and every call pays for Python.
    _last: tuple[tuple, _Resolved] | None = None

    @staticmethod
    def _halo_of(kernel: int, stride: int, padding: int, dilation: int) -> int:
        return conv_halo_width(kernel, stride, padding, dilation)

    def _resolve(self, module: Any, kernel: Sequence[int], domain: Domain, x: Tensor, facts: tuple) -> _Resolved:
        _, batched, dim = self._batched(x, len(module.kernel_size), domain)
        error = functools.partial(self.error, domain)
        stride, dilation = (conv_option(module, name, error) for name in ("stride", "dilation"))
        resolved = (batched, dim, stride, *conv_padding(module, kernel, error), dilation)
        # A list of options, and what torch pads by in modes other than zeros, may change in place.
        may_change = module.padding_mode != "zeros" or any(isinstance(option, list) for option in facts[-1])
        if not may_change and not torch.compiler.is_compiling():
            object.__setattr__(self, "_last", (facts, resolved))
        return resolved

    def _on_cut(self, module: Any, domain: Domain, x: Tensor, *args: Any) -> Tensor:
        # Once: a parametrized weight is computed whenever it is read.
        weight = module.weight
        kernel = weight.shape[2:]
        facts = (x.shape, self.shard_dim, kernel, (module.stride, module.padding, module.dilation, module.padding_mode))
        last = None if torch.compiler.is_compiling() else self._last
        if last is None or last[0] != facts:
            batched, dim, stride, before, after, dilation = self._resolve(module, kernel, domain, x, facts)
        else:
            batched, dim, stride, before, after, dilation = last[1]
        x = x if batched else x.unsqueeze(0)
        y = torch.ops.graticule.conv(
            x,
            weight,
            module.bias,
            stride,
            before,
            after,
            module.padding_mode,
            dilation,
            module.groups,
            self._cuts.offsets(x, dim, domain, module),
            [],
            dim,
            domain.op_group,
            type(self).__name__,
        )
        return y if batched else y.squeeze(0)


def _of_whole_grid(x: Tensor, dim: int, rows: int) -> Tensor:
    """A tensor of the whole grid's shape that holds nothing; `dim` is counted from the last dimension."""
    shape = list(x.shape)
    shape[dim] = rows
    return torch.empty(shape, device="meta")


class _ConvTranspose(_ConvBase):
    @staticmethod
    def _halo_of(kernel: int, stride: int, padding: int, dilation: int) -> int:
        return conv_transpose_halo_width(kernel, stride, padding, dilation)

    @property
    def halo_width(self) -> int:
        """Rows needed from the wider side at a cut that lines up with the stride."""
        return self._halo

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """This rank's rows of the input -> this rank's rows of the output. output_size is the whole grid's."""
        return super().forward(input, output_size)

    def _on_cut(self, module: Any, domain: Domain, x: Tensor, *args: Any) -> Tensor:
        spatial = len(module.kernel_size)
        x, batched, dim = self._batched(x, spatial, domain)
        error = functools.partial(self.error, domain)
        stride, padding, dilation = (conv_option(module, name, error) for name in ("stride", "padding", "dilation"))
        conv_option(module, "output_padding", error)
        offsets = self._cuts.offsets(x, dim, domain, self.wrapped, *args)
        output_size = args[0] if args else None
        # torch's own arithmetic and errors. It looks at the input where a size is asked for.
        output_padding = module._output_padding(
            x if output_size is None else _of_whole_grid(x if batched else x.squeeze(0), dim - x.dim(), offsets[-1]),
            output_size,
            stride,
            padding,
            module.kernel_size,
            spatial,
            dilation,
        )
        y = torch.ops.graticule.conv_transpose(
            x,
            module.weight,
            module.bias,
            stride,
            padding,
            _as_list(output_padding, spatial),
            dilation,
            module.groups,
            offsets,
            [],
            dim,
            domain.op_group,
            type(self).__name__,
        )
        return y if batched else y.squeeze(0)


class DomainParallelConv1d(_Conv):
    """nn.Conv1d of (B, C, L_local) -> (B, C', L'_local). See the module's docstring for the contract."""

    def __init__(self, conv: nn.Conv1d, shard_dim: int = -1, *, domain: Any = None, rows: Rows = None) -> None:
        super().__init__(conv, shard_dim, domain, rows, nn.Conv1d)


class DomainParallelConv2d(_Conv):
    """nn.Conv2d of (B, C, H_local, W) -> (B, C', H'_local, W'), for every option.

    Attributes conv, shard_dim, halo_exchange, weight, bias. See the module's docstring for the contract.
    """

    def __init__(self, conv: nn.Conv2d, shard_dim: int = -2, *, domain: Any = None, rows: Rows = None) -> None:
        super().__init__(conv, shard_dim, domain, rows, nn.Conv2d)


class DomainParallelConv3d(_Conv):
    """nn.Conv3d of (B, C, T, H_local, W) -> (B, C', T', H'_local, W'). See the module's docstring for the contract."""

    def __init__(self, conv: nn.Conv3d, shard_dim: int = 3, *, domain: Any = None, rows: Rows = None) -> None:
        super().__init__(conv, shard_dim, domain, rows, nn.Conv3d)


class DomainParallelConvTranspose1d(_ConvTranspose):
    """nn.ConvTranspose1d of (B, C, L_local) -> (B, C', L'_local).

    Attributes conv, shard_dim, halo_width, halo_exchange. See the module's docstring for the contract.
    """

    def __init__(self, conv: nn.ConvTranspose1d, shard_dim: int = -1, *, domain: Any = None, rows: Rows = None) -> None:
        super().__init__(conv, shard_dim, domain, rows, nn.ConvTranspose1d)


class DomainParallelConvTranspose2d(_ConvTranspose):
    """nn.ConvTranspose2d of (B, C, H_local, W) -> (B, C', H'_local, W').

    Attributes conv, shard_dim, halo_width, halo_exchange. See the module's docstring for the contract.
    """

    def __init__(self, conv: nn.ConvTranspose2d, shard_dim: int = -2, *, domain: Any = None, rows: Rows = None) -> None:
        super().__init__(conv, shard_dim, domain, rows, nn.ConvTranspose2d)


class DomainParallelConvTranspose3d(_ConvTranspose):
    """nn.ConvTranspose3d of (B, C, T, H_local, W) -> (B, C', T', H'_local, W').

    Attributes conv, shard_dim, halo_width, halo_exchange. See the module's docstring for the contract.
    """

    def __init__(self, conv: nn.ConvTranspose3d, shard_dim: int = 3, *, domain: Any = None, rows: Rows = None) -> None:
        super().__init__(conv, shard_dim, domain, rows, nn.ConvTranspose3d)


class DomainParallelGroupNorm(BorrowingLayer):
    """nn.GroupNorm over the whole grid, of 3 to 5 dimensions; of (B, C, L) the last is cut. Same shape out.

    Statistics are combined in rank order by the formula of Chan, Golub and LeVeque (1979). A shard may have no rows.
    Attributes num_groups, num_channels, eps, affine, weight, bias. See the module's docstring for the contract.
    """

    def __init__(self, norm: nn.GroupNorm, shard_dim: int = -2, *, domain: Any = None, rows: Rows = None) -> None:
        if not isinstance(norm, nn.GroupNorm):
            raise TypeError(f"DomainParallelGroupNorm: expected a GroupNorm, got {type(norm).__name__}")
        refuse_changed_forward("DomainParallelGroupNorm", norm, nn.GroupNorm)
        super().__init__("norm", norm, shard_dim, domain, rows)

    def _on_cut(self, module: Any, domain: Domain, x: Tensor, *args: Any) -> Tensor:
        if not 3 <= x.dim() <= 5:
            raise self.error(domain, "an input of 3 to 5 dimensions", x.dim())
        if x.shape[1] != module.num_channels:
            raise self.error(domain, f"an input of {module.num_channels} channels", x.shape[1])
        dim = cut_dimension(self.shard_dim, x.dim(), type(self).__name__)
        return torch.ops.graticule.group_norm(
            x,
            module.num_groups,
            module.weight,
            module.bias,
            module.eps,
            self._cuts.offsets(x, dim, domain, self.wrapped),
            dim,
            domain.op_group,
            type(self).__name__,
        )


class DomainParallelPeriodicConv2d(BorrowingLayer):
    """A module that pads longitudes circularly and latitudes by reflection before its convolution.

    It has attributes conv and padding, as graticule.PeriodicConv2d has. Of (B, C, H_local, W), cut along H. Attributes
    conv, padding, shard_dim, halo_exchange, weight, bias. See the module's docstring for the contract.
    """

    def __init__(self, periodic_conv: Any, shard_dim: int = -2, *, domain: Any = None, rows: Rows = None) -> None:
        if not isinstance(getattr(periodic_conv, "conv", None), nn.Conv2d) or not hasattr(periodic_conv, "padding"):
            raise TypeError(
                "DomainParallelPeriodicConv2d: expected a module with a Conv2d `conv` and a number `padding`, "
                f"got {type(periodic_conv).__name__}"
            )
        refuse_changed_forward("DomainParallelPeriodicConv2d", periodic_conv.conv, nn.Conv2d)
        super().__init__("periodic_conv", periodic_conv, shard_dim, domain, rows)
        conv = periodic_conv.conv
        before = conv_padding(conv)[0][0] + _as_list(self.padding, 2)[0]
        stride, dilation = (conv_option(conv, name)[0] for name in ("stride", "dilation"))
        width = conv_halo_width(conv_kernel(conv)[0], stride, before, dilation)
        object.__setattr__(self, "halo_exchange", HaloExchange(width, shard_dim, domain=domain))

    @property
    def weight(self) -> Tensor:
        """The convolution's weight."""
        return self.wrapped.conv.weight  # type: ignore[union-attr, return-value]

    @property
    def bias(self) -> Tensor | None:
        """The convolution's bias."""
        return self.wrapped.conv.bias  # type: ignore[union-attr, return-value]

    def forward(self, x: Tensor) -> Tensor:
        """X with this rank's rows -> this rank's rows of the output. All ranks of the domain must call."""
        return super().forward(x)

    def _on_cut(self, module: Any, domain: Domain, x: Tensor, *args: Any) -> Tensor:
        x, batched, dim = self._batched(x, 2, domain)
        if dim != 2:
            raise self.error(domain, "a tensor (B, C, H, W) cut along H", f"shard_dim {self.shard_dim}")
        offsets = self._cuts.offsets(x, dim, domain, self.wrapped, module.padding)

        def convolve(conv: Any, given: Tensor) -> Tensor:
            weight = conv.weight
            error = functools.partial(self.error, domain)
            before, after = conv_padding(conv, weight.shape[2:], error)
            if before != after:
                raise self.error(domain, "a convolution that pads alike on both sides", conv.padding)
            return torch.ops.graticule.periodic_conv(
                given,
                weight,
                conv.bias,
                conv_option(conv, "stride", error),
                before,
                conv_option(conv, "dilation", error),
                conv.groups,
                conv.padding_mode,
                _as_list(module.padding, 2),
                offsets,
                [],
                dim,
                domain.op_group,
                type(self).__name__,
            )

        y = call_as(module.conv, convolve, x)
        return y if batched else y.squeeze(0)


def _of_each_dimension(value: Any, what: str, spatial: int, layer: str) -> list[Any]:
    """As F.interpolate takes it: one number is for all, but not a list of one."""
    if not isinstance(value, (list, tuple)):
        return [value] * spatial
    if len(value) != spatial:
        raise ValueError(f"{layer}: expected one {what}, or {spatial} of them, got {value}")
    return list(value)


def _sizes(size: Any, spatial: int, layer: str) -> list[int]:
    sizes = _of_each_dimension(size, "size", spatial, layer)
    try:
        if not any(isinstance(each, bool) for each in sizes):
            return [operator.index(each) for each in sizes]
    except TypeError:
        pass
    raise TypeError(f"{layer}: expected sizes that are whole numbers, got {size!r}")


def _scales(scale: Any, spatial: int, give_the_size: bool, layer: str) -> list[float]:
    scales = _of_each_dimension(scale, "scale factor", spatial, layer)
    if not all(isinstance(each, (int, float, numbers.Real)) for each in scales):
        raise TypeError(f"{layer}: expected scale factors that are numbers, got {scale!r}")
    # Torch multiplies by them in their own precision where they give the size, and in double precision otherwise.
    if give_the_size and not all(isinstance(each, (int, float, numbers.Integral)) for each in scales):
        raise TypeError(f"{layer}: expected scale factors that are Python numbers, got {scale!r}")
    return [float(each) for each in scales]


def _interpolated(layer: Any, domain: Domain, x: Tensor, options: Any) -> Tensor:
    """The rows of `layer`'s output, by the options that F.interpolate takes and `options` has."""
    x = fixed_shape(x)
    name = type(layer).__name__
    dim = cut_dimension(layer.shard_dim, x.dim(), name)
    spatial = x.dim() - 2
    size, scale = options.size, options.scale_factor
    give_the_size = options.mode == "area" or bool(options.recompute_scale_factor)
    return torch.ops.graticule.interpolate(
        x,
        [] if size is None else _sizes(size, spatial, name),
        [] if scale is None else _scales(scale, spatial, give_the_size, name),
        options.mode,
        options.align_corners,
        options.recompute_scale_factor,
        getattr(options, "antialias", False),
        layer._cuts.offsets(x, dim, domain, options),
        [],
        dim,
        domain.op_group,
        name,
    )


class DomainParallelInterpolate(nn.Module):
    """F.interpolate of (B, C, spatial...) to a size of the whole grid, on any number of ranks.

    Args:
        size: the whole output's, a number or one a spatial dimension; or None with a scale_factor.
        mode: nearest, nearest-exact, linear, bilinear, bicubic, trilinear or area.
        shard_dim: the cut dimension.
        scale_factor, align_corners, recompute_scale_factor, antialias: as in F.interpolate.
        domain, rows: as for DomainParallelConv2d.

    """

    def __init__(
        self,
        size: Any = None,
        mode: str = "bilinear",
        shard_dim: int = -2,
        *,
        scale_factor: Any = None,
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        antialias: bool = False,
        domain: Any = None,
        rows: Rows = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.mode = mode
        self.shard_dim = shard_dim
        self.scale_factor = scale_factor
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor
        self.antialias = antialias
        self.domain = None if domain is None else Domain.of(domain)
        self._cuts = RowCuts("DomainParallelInterpolate", rows)
        width = {"bicubic": 2, "linear": 1, "bilinear": 1, "trilinear": 1}.get(mode, 0)
        self.halo_exchange = HaloExchange(width, shard_dim, domain=domain)

    def forward(self, input: Tensor) -> Tensor:
        """This rank's rows of the input -> this rank's rows of the whole output. All ranks of the domain must call."""
        domain = active_domain(self.domain)
        if domain is None:
            return F.interpolate(
                input,
                self.size,
                self.scale_factor,
                self.mode,
                self.align_corners,
                self.recompute_scale_factor,
                self.antialias,
            )
        return _interpolated(self, domain, input, self)

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"size={self.size}, scale_factor={self.scale_factor}, mode={self.mode}, "
            f"align_corners={self.align_corners}, recompute_scale_factor={self.recompute_scale_factor}, "
            f"antialias={self.antialias}, shard_dim={self.shard_dim}"
        )


class DomainParallelUpsample(BorrowingLayer):
    """nn.Upsample of (B, C, spatial...), and its kin for two dimensions: size and scale are those of the whole grid.

    Attributes size, scale_factor, mode, align_corners, recompute_scale_factor. See the module's docstring for the
    contract.
    """

    def __init__(self, upsample: nn.Upsample, shard_dim: int = -2, *, domain: Any = None, rows: Rows = None) -> None:
        if not isinstance(upsample, nn.Upsample):
            raise TypeError(f"DomainParallelUpsample: expected an Upsample, got {type(upsample).__name__}")
        refuse_changed_forward("DomainParallelUpsample", upsample, nn.Upsample)
        super().__init__("upsample", upsample, shard_dim, domain, rows)

    def _on_cut(self, module: Any, domain: Domain, x: Tensor, *args: Any) -> Tensor:
        return _interpolated(self, domain, x, module)
