"""What an op on a DomainTensor costs beside the same op on this rank's rows: writes dispatch.csv.

The whole tensor is 1x8x32x32, cut along its rows; no gradients. Blocks of calls take turns, as in the tiny part. Before
it is timed, an op must give the rows that it gives of the whole tensor.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import graticule
from benchmarks import options, records
from benchmarks.exactness import WrongResultError
from benchmarks.processes import Processes, begin, end
from benchmarks.ratios import more_microseconds, quartiles
from benchmarks.turns import Contender, take_turns

SIZES = (1, 8, 32, 32)
DIM = 2
CALLS = 50
BLOCKS = 40

_generator = torch.Generator().manual_seed(3)


def _weight(*sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=_generator)


POINT, SQUARE, CHANNELS, COLUMNS = _weight(8, 8, 1, 1), _weight(8, 8, 3, 3), _weight(8), _weight(32)
MATRIX = _weight(32, 32)
MEAN, VARIANCE = torch.zeros(8), torch.ones(8)


def _attention(x: Tensor) -> Tensor:
    """Within windows of 4 x 4."""
    w = x.reshape(1, 8, -1, 4, 8, 4).permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2, 3)
    return F.scaled_dot_product_attention(w, w, w)


# Rows are cut: what works along them alone sends; from the convolution 3x3 on.
OPS: dict[str, Callable[[Tensor], Any]] = {
    "x + x": lambda x: x + x,
    "x * 2": lambda x: x * 2,
    "x * plain (channels)": lambda x: x * CHANNELS.view(8, 1, 1),
    "relu": torch.relu,
    "gelu": F.gelu,
    "where": lambda x: torch.where(x > 0, x, 0.5),
    "sum over channels": lambda x: x.sum(1),
    "mean over columns": lambda x: x.mean(-1, keepdim=True),
    "softmax over columns": lambda x: x.softmax(-1),
    "softmax over channels": lambda x: x.softmax(1),
    "view": lambda x: x.view(1, 2, 4, *x.shape[2:]),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "slice of columns": lambda x: x[..., 4:20],
    "cat over channels": lambda x: torch.cat([x, x], 1),
    "split of channels": lambda x: x.split(4, 1),
    "pad columns": lambda x: F.pad(x, (1, 1)),
    "roll of columns": lambda x: x.roll(3, -1),
    "linear": lambda x: F.linear(x, MATRIX, COLUMNS),
    "matmul": lambda x: x @ MATRIX,
    "einsum": lambda x: torch.einsum("bchw,wv->bchv", x, MATRIX),
    "layer_norm over columns": lambda x: F.layer_norm(x, (32,), COLUMNS, COLUMNS),
    "batch_norm, eval": lambda x: F.batch_norm(x, MEAN, VARIANCE, CHANNELS, CHANNELS),
    "conv2d 1x1": lambda x: F.conv2d(x, POINT, CHANNELS),
    "max_pool2d 2": lambda x: F.max_pool2d(x, 2),
    "avg_pool2d 2": lambda x: F.avg_pool2d(x, 2),
    "interpolate nearest": lambda x: F.interpolate(x, scale_factor=2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "attention in windows": _attention,
    "dropout": lambda x: F.dropout(x, 0.1),
    "conv2d 3x3": lambda x: F.conv2d(x, SQUARE, CHANNELS, padding=1),
    "group_norm": lambda x: F.group_norm(x, 4, CHANNELS, CHANNELS),
    "sum": torch.sum,
    "mean over rows": lambda x: x.mean(2),
    "roll of rows": lambda x: x.roll(1, 2),
    "flip of rows": lambda x: x.flip(2),
    "interpolate bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
}
RANDOM = {"dropout"}


class Block(Contender):
    """An op, called many times in one turn."""

    calls = CALLS

    def run(self, mode: str) -> None:
        with torch.no_grad():
            for _ in range(self.calls):
                self.forward()


class _Count(TorchDispatchMode):
    """ATen ops that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops += 1
        return func(*args, **(kwargs or {}))


def _check(name: str, whole: Tensor, x: graticule.DomainTensor) -> tuple[int, str]:
    """ATen ops of the call and what it sends, by a report. WrongResultError where it differs from the uncut call."""
    op = OPS[name]
    with graticule.report() as report, _Count() as count, torch.no_grad():
        result = op(x)
    moved = ", ".join(dict.fromkeys(call.moved for call in report.calls if call.bytes))
    parts = result if isinstance(result, (tuple, list)) else [result]
    expected = op(whole)
    references = expected if isinstance(expected, (tuple, list)) else [expected]
    for part, reference in zip(parts, references, strict=True):
        value = part.gather() if isinstance(part, graticule.DomainTensor) else part
        close = value.shape == reference.shape if name in RANDOM else torch.allclose(value, reference, 1e-4, 1e-5)
        if not close:
            raise WrongResultError(f"{name}: the op of a cut tensor differs from the uncut one")
    return count.ops, moved


def _measure(name: str, p: Processes, blocks: int) -> dict[str, Any]:
    whole = torch.randn(SIZES, generator=torch.Generator().manual_seed(0))
    x = graticule.shard(whole, p.mpi, dim=DIM)
    assert isinstance(x, graticule.DomainTensor)
    ops, moved = _check(name, whole, x)
    plain = x.local.clone()
    contenders: dict[str, Contender] = {
        which: Block(OPS[name], t, None, []) for which, t in (("plain", plain), ("null", plain), ("cut", x))
    }
    times = take_turns(contenders, "forward", blocks, 3, p.meeting, p.rank)
    line: dict[str, Any] = {"op": name, "aten_ops": ops, "moved": moved, "calls": len(times["plain"]) * Block.calls}
    line["plain_us"] = f"{quartiles(times['plain'])[1] / Block.calls * 1e6:.1f}"
    for which, key in (("cut", "more_us"), ("null", "null_us")):
        low, middle, high = more_microseconds(times[which], times["plain"], Block.calls)
        line |= {key: f"{middle:.1f}", f"{key}_q1": f"{low:.1f}", f"{key}_q3": f"{high:.1f}"}
    return line


def main() -> None:
    given = options.parse()
    p = begin(pathlib.Path(given.shared))
    Block.calls, blocks = (5, 2) if given.smoke else (CALLS, BLOCKS)
    # Torch seeds each process otherwise.
    torch.manual_seed(0)
    lines = [_measure(name, p, blocks) for name in OPS]
    if p.rank == 0:
        records.write(given.out / "dispatch.csv", lines)
    end(p)


if __name__ == "__main__":
    main()
