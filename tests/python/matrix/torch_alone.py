"""Why a cut convolution's bits may differ: experiments with PyTorch alone, on the uncut tensors.

The cut layer computes every row from its whole window, by calls of PyTorch's kernels on other rows than all. So where
its bits differ, PyTorch alone must give the very same bits from the same rows of the uncut tensors: where it does not,
the difference is the cut layer's own.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from matrix.bit_cases import BitCase, Serial, laid_out
from support.ranks import balanced

PADDING = "kernel depends on padding"
ROWS = "kernel depends on the number of rows"
# As in src/ops/strip_plan.cpp: a strip of fewer positions is computed with rows beside it.
LEAST_POSITIONS = 256


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _call(case: BitCase, conv: torch.nn.Module, x: Tensor, dim: int, padding: int) -> Tensor:
    """The uncut layer with another padding along the rows."""
    paddings = [padding if d == dim - 2 else p for d, p in enumerate(conv.padding)]
    if case.transposed:
        call = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[case.dims - 1]
        return call(x, conv.weight, conv.bias, conv.stride, paddings, 0, conv.groups, conv.dilation)
    call = (F.conv1d, F.conv2d, F.conv3d)[case.dims - 1]
    return call(x, conv.weight, conv.bias, conv.stride, paddings, conv.dilation, conv.groups)


def depends_on_padding(case: BitCase, whole: Serial) -> bool:
    """Whether other bits come from zero rows that lie in the uncut tensor than from as much padding."""
    given = whole.module.padding[whole.dim - 2]
    after = [0, 0] * (whole.x.dim() - whole.dim - 1)
    if case.transposed:
        # Here the rows are those of the output, and of its gradient.
        x = whole.x.detach().requires_grad_()
        y = _call(case, whole.module, x, whole.dim, 0)
        rows = y.narrow(whole.dim, given, whole.y.shape[whole.dim])
        (gradient,) = torch.autograd.grad(y, x, F.pad(whole.g, [*after, given, given]))
    else:
        x = laid_out(F.pad(whole.x.detach(), [*after, given, given]), case.channels_last).requires_grad_()
        rows = _call(case, whole.module, x, whole.dim, 0)
        (gradient,) = torch.autograd.grad(rows, x, whole.g)
        gradient = gradient.narrow(whole.dim, given, case.rows)
    return not (torch.equal(rows, whole.y) and torch.equal(gradient, whole.x.grad))


class Alone:
    """PyTorch's own output, or input gradient, of parts of the uncut tensors."""

    def __init__(self, case: BitCase, whole: Serial, what: str) -> None:
        self.case, self.whole, self.dim = case, whole, whole.dim
        self.is_output = what == "output"
        # A window takes fine rows to a coarse one: the input's to the output's, or transposed the other way.
        self.to_coarse = self.is_output != case.transposed
        self.padding = case.dilation * (case.kernel - 1) // 2
        self.span = case.dilation * (case.kernel - 1) + 1
        self.target, self.source = (whole.y, whole.x) if self.is_output else (whole.x, whole.y)

    def _rows(self, t: Tensor, first: int, last: int) -> Tensor:
        """Rows of a tensor, zeros beyond its ends."""
        after = [0, 0] * (t.dim() - self.dim - 1)
        return laid_out(F.pad(t.detach(), [*after, -first, last - t.shape[self.dim]]), self.case.channels_last)

    def _run(self, inputs: tuple[int, int], outputs: tuple[int, int], padding: int) -> Tensor | None:
        """The result on these rows alone; nothing where such a call gives others than `outputs`."""
        x = self._rows(self.whole.x, *inputs).requires_grad_()
        y = _call(self.case, self.whole.module, x, self.dim, padding)
        if y.shape[self.dim] != outputs[1] - outputs[0]:
            return None
        if self.is_output:
            return y.detach()
        return torch.autograd.grad(y, x, self._rows(self.whole.g, *outputs))[0]

    def windows(self, first: int, last: int) -> Tensor:
        """Rows [first, last) from their whole windows, without padding."""
        stride, reach = self.case.stride, self.span - 1
        low, high = first + self.padding, last - 1 + self.padding
        coarse = first, last
        if not self.to_coarse:
            coarse = (
                min(_ceil_div(low - reach, stride), low // stride),
                max(high // stride, _ceil_div(high - reach, stride)) + 1,
            )
        fine = coarse[0] * stride - self.padding, (coarse[1] - 1) * stride - self.padding + self.span
        result = self._run(*((coarse, fine) if self.case.transposed else (fine, coarse)), 0)
        assert result is not None
        return result if self.to_coarse else result.narrow(self.dim, first - fine[0], last - first)

    def _shard(self, own: tuple[int, int], source: tuple[int, int]) -> Tensor | None:
        """A rank's rows from its shard as it lies, padded so that rows near the middle are right."""
        inputs, outputs = (source, own) if self.is_output else (own, source)
        fine, coarse = (outputs, inputs) if self.case.transposed else (inputs, outputs)
        padding = fine[0] + self.padding - coarse[0] * self.case.stride
        return None if padding < 0 or inputs[0] == inputs[1] else self._run(inputs, outputs, padding)

    def _seams(self, own: tuple[int, int], source: tuple[int, int]) -> tuple[int, int]:
        """Where the rows end that need those of ranks before, and where those begin that need those of ranks after."""
        stride, padding, span = self.case.stride, self.padding, self.span
        if self.to_coarse:
            end, begin = _ceil_div(source[0] + padding, stride), (source[1] + padding - span) // stride + 1
        else:
            end, begin = (source[0] - 1) * stride - padding + span, source[1] * stride - padding
        first = min(max(end, own[0]), own[1]) if source[0] > 0 else own[0]
        last = min(max(begin, own[0]), own[1]) if source[1] < self.source.shape[self.dim] else own[1]
        return first, last

    def parts(self, rank: int) -> Iterator[tuple[int, Tensor]]:
        """What the rank's kernels may be given, each as its first row and its result."""
        counts = self.target.shape[self.dim], self.source.shape[self.dim]
        own, source = ((c := balanced(count, self.case.ranks))[rank : rank + 2] for count in counts)
        positions = math.prod(self.target.shape[2:]) // counts[0]
        least = _ceil_div(LEAST_POSITIONS, positions)
        # All its rows from whole windows, and rows beside them where they are few.
        missing = max(0, least - (own[1] - own[0]))
        first = max(own[0] - (missing + 1) // 2, 0)
        last = min(counts[0], first + own[1] - own[0] + missing)
        first = max(0, last - (own[1] - own[0]) - missing)
        yield first, self.windows(first, last)
        # The shard as it lies, and strips at its ends.
        shard = self._shard(own, source)
        if shard is None:
            return
        yield own[0], shard
        end, begin = self._seams(own, source)
        if end > own[0]:
            yield own[0], self.windows(own[0], min(max(end, own[0] + least), own[1]))
        if begin < own[1]:
            begin = max(min(begin, own[1] - least), own[0])
            yield begin, self.windows(begin, own[1])


def _equal_rows(a: Tensor, b: Tensor, dim: int) -> Tensor:
    return (a == b).movedim(dim, 0).flatten(1).all(1)


def explained(case: BitCase, whole: Serial, what: str, cut: Tensor, uncut: Tensor) -> bool:
    """Whether every row of the cut result that differs has the bits of PyTorch alone on what its rank is given."""
    left = ~_equal_rows(cut, uncut, whole.dim)
    alone = Alone(case, whole, what)
    cuts = balanced(cut.shape[whole.dim], case.ranks)
    for rank in range(case.ranks):
        own = range(cuts[rank], cuts[rank + 1])
        for first, rows in alone.parts(rank):
            if not left[own.start : own.stop].any():
                break
            begin, end = max(first, own.start), min(first + rows.shape[whole.dim], own.stop)
            mine = cut.narrow(whole.dim, begin, end - begin), rows.narrow(whole.dim, begin - first, end - begin)
            left[begin:end] &= ~_equal_rows(*mine, whole.dim)
    return not left.any()
