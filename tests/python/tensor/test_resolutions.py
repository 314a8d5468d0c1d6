"""A model that goes through several resolutions: convolutions, pooling and interpolation after one another."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from support.ranks import balanced
from tensor.comparison import Cut, compare, uneven


class Levels(nn.Module):
    """An encoder and decoder with skips, of sizes that no factor of two divides."""

    def __init__(self):
        super().__init__()
        self.inwards = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.deepest = nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.outwards = nn.Conv2d(4, 2, 5, padding=2)

    def forward(self, x):
        fine = F.silu(self.inwards(x))
        coarse = F.silu(self.down(F.max_pool2d(fine, 3, 2, 1)))
        coarse = coarse + F.silu(self.deepest(coarse))
        back = F.interpolate(self.up(coarse), size=fine.shape[-2:], mode="bilinear")
        y = fine + back * self.gate(F.adaptive_avg_pool2d(back, 1)).sigmoid()
        return self.outwards(y) + F.interpolate(F.avg_pool2d(x[:, :2], 2, ceil_mode=True), size=x.shape[-2:])


@pytest.mark.parametrize("rows", [21, 5])
def test_values_and_gradients(rows):
    torch.manual_seed(1)
    model = Levels().double()
    names = list(dict(model.named_parameters()))
    x = torch.randn(2, 3, rows, 11, dtype=torch.float64)

    def function(x, *parameters):
        # Ranks are threads: each swaps the parameters of a module of its own.
        mine = copy.deepcopy(model)
        return torch.func.functional_call(mine, dict(zip(names, parameters, strict=True)), (x,))

    for dim in (2, 3):
        compare(function, Cut(x, dim), *(p.detach() for p in model.parameters()), cuts=(balanced, uneven))
