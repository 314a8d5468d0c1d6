"""What takes the place of a cut layer elsewhere: halo rows put around the shard by a blocking exchange, then the layer.

The halo rows are made contiguous, exchanged with the two neighbours, waited for, and concatenated with the shard; the
layer runs on the copy and its result is trimmed. In backward the gradient of the halo rows goes back and is added.
torch.cat decides about the memory format: of a channels_last shard and contiguous halo rows it makes a contiguous copy.
`keep_format` writes it better than it is found elsewhere, with halo rows in the shard's format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.modules import Interpolate
from benchmarks.shapes import Shape
from graticule import PeriodicConv2d

TAG = 77


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """A process group and this rank's place in it."""

    group: Any
    rank: int
    size: int

    def exchange(self, sends: dict[int, Tensor], receives: dict[int, Tensor]) -> None:
        """Sends and receives one tensor a peer, and waits."""
        works = [self.group.recv([buffer], peer, TAG) for peer, buffer in receives.items()]
        works += [self.group.send([buffer], peer, TAG) for peer, buffer in sends.items()]
        for work in works:
            work.wait()

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the ranks."""
        total = x.clone()
        self.group.allreduce([total]).wait()
        return total


class Halo(torch.autograd.Function):
    """A shard with `width` rows of each neighbour around it, zeros beyond the grid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, dim: int, around: Neighbours, keep_format: bool) -> Tensor:
        ctx.facts = width, dim, around
        before, after = around.rank - 1, around.rank + 1
        pack = torch.Tensor.clone if keep_format else torch.Tensor.contiguous
        first = pack(x.narrow(dim, 0, width))
        last = pack(x.narrow(dim, x.shape[dim] - width, width))
        from_before, from_after = torch.zeros_like(last), torch.zeros_like(first)
        sends, receives = {}, {}
        if before >= 0:
            sends[before], receives[before] = first, from_before
        if after < around.size:
            sends[after], receives[after] = last, from_after
        around.exchange(*_flat(sends, receives))
        return torch.cat([from_before, x, from_after], dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        width, dim, around = ctx.facts
        (g,) = gradients
        rows = g.shape[dim] - 2 * width
        own = g.narrow(dim, width, rows).clone(memory_format=torch.preserve_format)
        before, after = around.rank - 1, around.rank + 1
        sends, receives, targets = {}, {}, {}
        if before >= 0:
            sends[before] = g.narrow(dim, 0, width).contiguous()
            targets[before] = own.narrow(dim, 0, width)
        if after < around.size:
            sends[after] = g.narrow(dim, width + rows, width).contiguous()
            targets[after] = own.narrow(dim, rows - width, width)
        receives = {peer: torch.empty_like(sends[peer]) for peer in sends}
        around.exchange(sends, receives)
        for peer, target in targets.items():
            target.add_(receives[peer])
        return own, None, None, None, None


def _flat(*maps: dict[int, Tensor]) -> list[dict[int, Tensor]]:
    """Views of dense tensors as transports take them: contiguous, over the same memory."""
    return [{peer: t.as_strided((t.numel(),), (1,), t.storage_offset()) for peer, t in m.items()} for m in maps]


class SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, around: Neighbours) -> Tensor:
        ctx.around = around
        return around.sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.around.sum(gradients[0].contiguous()), None


def trimmed(y: Tensor, dim: int, begin: int, count: int) -> Tensor:
    """Rows [begin, begin + count) of y; where those are all, y itself: backward of a slice copies."""
    return y if begin == 0 and count == y.shape[dim] else y.narrow(dim, begin, count)


def _convolution(conv: nn.Module, shape: Shape, around: Neighbours, keep_format: bool) -> Callable | None:
    rows, outputs = own_rows(shape.rows, around), own_rows(shape.output_rows, around)
    k, s, p, dim = shape.kernel, shape.stride, shape.padding, shape.cut_dim
    if k == s and p == 0:
        return conv  # no window leaves its shard
    if any(begin % s for begin, _ in all_rows(shape.rows, around.size)):
        return None
    width = max(p, k - s - p, 0)
    width += (p - width) % s  # so that windows begin where they should
    first = (rows[0] - width + p) // s  # the output row of the first window
    paddings = (0, *conv.padding[1:]) if shape.dims == 2 else (conv.padding[0], 0, *conv.padding[2:])
    function = F.conv3d if shape.dims == 3 else F.conv2d

    def call(x: Tensor) -> Tensor:
        y = function(Halo.apply(x, width, dim, around, keep_format), conv.weight, conv.bias, conv.stride, paddings)
        return trimmed(y, dim, outputs[0] - first, outputs[1] - outputs[0])

    return call


def _transposed(conv: nn.Module, shape: Shape, around: Neighbours, keep_format: bool) -> Callable | None:
    rows, outputs = own_rows(shape.rows, around), own_rows(shape.output_rows, around)
    k, s, p, dim = shape.kernel, shape.stride, shape.padding, shape.cut_dim
    if k == s and p == 0:
        return conv
    width = max((k - 1 - p) // s, -(-p // s))
    first = (rows[0] - width) * s

    def call(x: Tensor) -> Tensor:
        y = conv(Halo.apply(x, width, dim, around, keep_format))
        return trimmed(y, dim, outputs[0] - first, outputs[1] - outputs[0])

    return call


def _periodic(module: PeriodicConv2d, shape: Shape, around: Neighbours, keep_format: bool) -> Callable:
    p, conv = shape.padding, module.conv

    def call(x: Tensor) -> Tensor:
        rows = x.shape[2]
        x = F.pad(x, (p, p, 0, 0), mode="circular")
        padded = Halo.apply(x, p, 2, around, keep_format)
        if around.rank == 0:
            padded = torch.cat([x[:, :, 1 : p + 1].flip(2), padded[:, :, p:]], 2)
        if around.rank == around.size - 1:
            padded = torch.cat([padded[:, :, :-p], x[:, :, rows - p - 1 : rows - 1].flip(2)], 2)
        return F.conv2d(padded, conv.weight, conv.bias)

    return call


def _group_norm(norm: nn.GroupNorm, rows: int, around: Neighbours) -> Callable:
    """Mean, then variance, each by a sum over the ranks; the rest as it is composed from PyTorch's ops."""

    def call(x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], norm.num_groups, -1)
        count = grouped.shape[2] // x.shape[2] * rows
        mean = SumOverRanks.apply(grouped.sum(2, keepdim=True), around) / count
        centred = grouped - mean
        variance = SumOverRanks.apply(centred.square().sum(2, keepdim=True), around) / count
        normal = (centred * (variance + norm.eps).rsqrt()).view(x.shape)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return normal * norm.weight.view(shape) + norm.bias.view(shape)

    return call


def all_rows(rows: int, ranks: int) -> list[tuple[int, int]]:
    """Every rank's rows of a balanced cut."""
    return [(r * rows // ranks, (r + 1) * rows // ranks) for r in range(ranks)]


def own_rows(rows: int, around: Neighbours) -> tuple[int, int]:
    return all_rows(rows, around.size)[around.rank]


def concatenated_layer(
    module: nn.Module, shape: Shape, around: Neighbours, keep_format: bool = False
) -> Callable[[Tensor], Tensor] | None:
    """The layer by concatenation. None where that cannot give the uncut layer's result.

    Interpolation of 361 rows to 721 has another phase in every shard; a stride must line up with the cut.
    """
    if isinstance(module, Interpolate):
        return None
    if isinstance(module, nn.GroupNorm):
        return _group_norm(module, shape.rows, around)
    if isinstance(module, nn.Sequential):
        first = _convolution(module[0], shape, around, keep_format)
        second = _group_norm(module[1], shape.output_rows, around)
        return None if first is None else lambda x: second(first(x))
    if isinstance(module, PeriodicConv2d):
        return _periodic(module, shape, around, keep_format)
    if isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return _transposed(module, shape, around, keep_format)
    return _convolution(module, shape, around, keep_format)


def neighbours(group_name: str, rank: int, size: int) -> Neighbours:
    """By the name of a registered process group."""
    return Neighbours(dist.distributed_c10d._resolve_process_group(group_name), rank, size)
