"""Cut convolutions against serial ones, bit for bit: float32 on one thread.

As a program it prints its case count and the cases that differ, one a line, as known_exceptions.txt lists them.
"""

import dataclasses
import itertools
import random
import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from matrix.layers import CONV, CONV_TRANSPOSE, CUT
from support.ranks import balanced, run_ranks

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


def _laid_out(x: Tensor, channels_last: bool) -> Tensor:
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
    x = _laid_out(torch.randn(shape), case.channels_last).requires_grad_()
    y = module(x)
    g = _laid_out(torch.randn_like(y), case.channels_last)
    y.backward(g)
    return Serial(module, x, y, g, axis + 2)


def differing(case: BitCase) -> list[str]:
    """Which of output and input gradient differ from the serial layer's in some bit."""
    whole = serial(case)
    dim = whole.dim

    def body(domain: Any) -> tuple[Tensor, Tensor]:
        cuts = balanced(case.rows, domain.size), balanced(whole.y.shape[dim], domain.size)

        def own(t: Tensor, offsets: list[int]) -> Tensor:
            first, last = offsets[domain.rank], offsets[domain.rank + 1]
            return _laid_out(t.detach().narrow(dim, first, last - first), case.channels_last)

        rows = own(whole.x, cuts[0]).requires_grad_()
        output = CUT[type(whole.module)](whole.module, dim - whole.x.dim(), domain=domain)(rows)
        (gradient,) = torch.autograd.grad(output, rows, own(whole.g, cuts[1]))
        return output.detach(), gradient

    outputs, gradients = zip(*run_ranks(case.ranks, body), strict=True)
    assert whole.x.grad is not None
    pairs = {
        "output": (torch.cat(outputs, dim), whole.y),
        "input gradient": (torch.cat(gradients, dim), whole.x.grad),
    }
    return [name for name, (cut, uncut) in pairs.items() if not torch.equal(cut, uncut)]


def depends_on_padding(case: BitCase) -> bool:
    """Whether torch alone, uncut, gives other bits for zero rows that lie in the tensor than for as much padding."""
    whole = serial(case)
    conv = whole.module
    padding = [p if d != whole.dim - 2 else 0 for d, p in enumerate(conv.padding)]
    given = conv.padding[whole.dim - 2]
    after = [0, 0] * (whole.x.dim() - whole.dim - 1)
    if case.transposed:
        # Here the rows are those of the output, and of its gradient.
        call = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[case.dims - 1]
        x = whole.x.detach().requires_grad_()
        y = call(x, conv.weight, conv.bias, conv.stride, padding, 0, conv.groups, conv.dilation)
        rows = y.narrow(whole.dim, given, whole.y.shape[whole.dim])
        (gradient,) = torch.autograd.grad(y, x, F.pad(whole.g, [*after, given, given]))
    else:
        call = (F.conv1d, F.conv2d, F.conv3d)[case.dims - 1]
        x = _laid_out(F.pad(whole.x.detach(), [*after, given, given]), case.channels_last).requires_grad_()
        rows = call(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)
        (gradient,) = torch.autograd.grad(rows, x, whole.g)
        gradient = gradient.narrow(whole.dim, given, case.rows)
    return not (torch.equal(rows, whole.y) and torch.equal(gradient, whole.x.grad))


def main() -> None:
    torch.set_num_threads(1)
    count = 0
    for case in cases():
        count += 1
        for what in differing(case):
            reason = "kernel depends on padding" if depends_on_padding(case) else "kernel depends on the number of rows"
            print(f"{case.name} | {what} | {reason}", flush=True)
    print(f"cases: {count}")


if __name__ == "__main__":
    main()
