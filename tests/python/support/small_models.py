"""Models that the command is tried on."""

from typing import Any

import torch
from torch import Tensor, nn


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * (3 if hasattr(gradient, "offsets") else 2)


class Faulty(nn.Module):
    """Right uncut, and wrong in its gradient where it is cut."""

    def forward(self, x: Tensor) -> Tensor:
        return _Doubled.apply(x)


def fine() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Dropout(0.2), nn.Conv2d(8, 3, 3, 2, 1)
    )


def faulty() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.SiLU(), Faulty()), nn.Conv2d(8, 3, 1))


class Forced(nn.Module):
    """Takes fields, a forcing on the same grid, and the time, of one value a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 3, 3, padding=1)
        self.embedding = nn.Linear(1, 3)

    def forward(self, x: Tensor, forcing: Tensor, time: Tensor) -> Tensor:
        return self.conv(torch.cat([x, forcing], 1)) * (1 + self.embedding(time)[..., None, None])


class _Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(-2)[0]


class Sorted(nn.Module):
    """Its module `inner` sorts along rows, which no rule cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Sorted()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * 2)
