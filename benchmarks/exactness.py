"""Whether a contender gives what the uncut layer gives: nothing wrong is timed."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.turns import Contender

# Of the largest value. Float32 rounds at 1.2e-7, but PyTorch's own group norm in channels_last is 8e-6 away from its
# float64 result on 480 x 180 values; parameter gradients are sums of up to a million terms.
MOST_WRONG = 5e-5
MOST_WRONG_SUM = 1e-4


class WrongResultError(AssertionError):
    """A contender whose result is not that of the uncut layer."""


def relative(value: Tensor, reference: Tensor, scale: float) -> float:
    if value.shape != reference.shape:
        return float("inf")
    return 0.0 if reference.numel() == 0 else (value - reference).abs().max().item() / max(scale, 1e-30)


class Reference:
    """Output of the uncut layer on one thread and, with `backward`, its gradients: this rank's rows of them."""

    def __init__(self, serial: Contender, rows: tuple[int, int], output_rows: tuple[int, int], dim: int) -> None:
        y, gradient, self.sums = self._results(serial)
        self.parts = [("output", *_part(y, dim, output_rows)), ("input's gradient", *_part(gradient, dim, rows))]

    def _results(self, contender: Contender) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Output, the input's gradient, the parameters'."""
        contender.clear()
        y = contender.forward()
        torch.autograd.backward(y, contender.gradient)
        assert contender.x is not None and contender.x.grad is not None
        result = y.detach(), contender.x.grad, [p.grad for p in contender.parameters]
        contender.clear()
        return result

    def check(self, name: str, contender: Contender, group: str) -> None:
        """WrongResultError unless the contender's results are equal to float32 rounding. All ranks must call."""
        y, gradient, sums = self._results(contender)
        for value, (what, rows, scale) in zip((y, gradient), self.parts, strict=True):
            _expect(relative(value, rows, scale), MOST_WRONG, name, what)
        for part, expected in zip(sums, self.sums, strict=True):
            total = part.contiguous()
            torch.ops.graticule.all_reduce_sum_(total, group, "benchmark")
            _expect(
                relative(total, expected, expected.abs().max().item()), MOST_WRONG_SUM, name, "parameter's gradient"
            )


def _part(whole: Tensor, dim: int, rows: tuple[int, int]) -> tuple[Tensor, float]:
    return whole.narrow(dim, rows[0], rows[1] - rows[0]).clone(), whole.abs().max().item()


def _expect(error: float, most: float, name: str, what: str) -> None:
    if not error <= most:
        raise WrongResultError(
            f"{name}: {what} is wrong by {error:.1e} of its largest value, at most {most:.0e} is rounding"
        )
