"""Contenders that take turns."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.meeting import Meeting

SHORT_SECONDS = 2.0


@dataclasses.dataclass
class Contender:
    """A layer with its input and the gradient of its output. `threads`: of the rank that takes the turn.

    With `alone` rank 0 takes it and the others sleep; they hold no layer, input or gradient.
    """

    call: Callable[[Tensor], Tensor] | None
    x: Tensor | None
    gradient: Tensor | None
    parameters: list[Tensor]
    threads: int = 1
    alone: bool = False

    def clear(self) -> None:
        for tensor in [self.x, *self.parameters]:
            if tensor is not None:
                tensor.grad = None

    def forward(self) -> Tensor:
        assert self.call is not None and self.x is not None
        return self.call(self.x)

    def run(self, mode: str) -> None:
        if mode == "forward":
            with torch.no_grad():
                self.forward()
        else:
            torch.autograd.backward(self.forward(), self.gradient)


def order(names: list[str], iteration: int) -> list[str]:
    """Every contender comes in every place, and after as well as before each other one."""
    shift = iteration % len(names)
    rotated = names[shift:] + names[:shift]
    return rotated[::-1] if iteration // len(names) % 2 or iteration % 2 else rotated


def take_turn(contender: Contender, mode: str, meeting: Meeting, rank: int) -> float:
    """Seconds on the rank that took longest."""
    contender.clear()
    idle = contender.alone and rank != 0
    if not idle and contender.threads != torch.get_num_threads():
        torch.set_num_threads(contender.threads)
    meeting.start()
    begun = time.perf_counter()
    if not idle:
        contender.run(mode)
    seconds = 0.0 if idle else time.perf_counter() - begun
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    if contender.threads > 1:
        meeting.gather()
        time.sleep(0.01)  # the second thread polls for work some milliseconds after its last
    return meeting.largest(seconds)


def take_turns(
    contenders: dict[str, Contender], mode: str, iterations: int, warm_up: int, meeting: Meeting, rank: int
) -> dict[str, list[float]]:
    """Seconds of every contender's turns after the warm-up, in the order of the iterations.

    Short turns are taken up to four times as often: their ratios spread more.
    """
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for iteration in range(-warm_up, 4 * iterations):
            # Every rank knows the same times, and ends with the others.
            if iteration >= iterations and sum(map(sum, times.values())) > SHORT_SECONDS:
                break
            for name in order(names, iteration + warm_up):
                seconds = take_turn(contenders[name], mode, meeting, rank)
                if iteration >= 0:
                    times[name].append(seconds)
    finally:
        gc.enable()
    return times
