"""A weight's gradient at the cuts and the grid's ends: what is small beside the sum, and what is not finite."""

import copy

import pytest
import torch
from torch import nn

from graticule.domain_parallel import DomainParallelConv1d, DomainParallelConv2d
from support.ranks import run_ranks


@pytest.fixture(autouse=True)
def in_place():
    torch.ops.graticule.force_convolution_path("in_place")
    yield
    torch.ops.graticule.force_convolution_path("automatic")


def gradient(conv, x, g):
    conv = copy.deepcopy(conv)
    conv(x).backward(g)
    return conv.weight.grad


def cut_gradient(kind, conv, x, g, ranks):
    def body(domain):
        layer = copy.deepcopy(conv)
        parts = [torch.tensor_split(t, domain.size, 2)[domain.rank] for t in (x, g)]
        kind(layer, domain=domain)(parts[0]).backward(parts[1])
        return layer.weight.grad

    return sum(part.double() for part in run_ranks(ranks, body))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_near_a_cut_are_not_lost_beside_the_sum(dtype):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, (31, 1), padding=(15, 0), bias=False).to(dtype)
    x, g = (torch.rand(1, 4, 1200, 32).to(dtype) for _ in range(2))
    g = g / 16
    exact = gradient(conv.double(), x.double(), g.double())
    error = (cut_gradient(DomainParallelConv2d, conv.to(dtype), x, g, 2) - exact) / exact.abs().max()
    # Two parts, each rounded once by the kernel and once as a sum.
    assert error.abs().max() < 2 * torch.finfo(dtype).eps
    assert error.mean().abs() < 0.1 * torch.finfo(dtype).eps


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("row", [0, 1, 4, 7])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_spreads_as_far_as_uncut(mode, row, value):
    torch.manual_seed(0)
    conv = nn.Conv1d(1, 1, 5, padding=2, padding_mode=mode, bias=False).double()
    for name in ("x", "g"):
        x, g = torch.randn(2, 1, 1, 8, dtype=torch.float64)
        {"x": x, "g": g}[name][..., row] = value
        uncut = gradient(conv, x, g).isfinite()
        assert torch.equal(cut_gradient(DomainParallelConv1d, conv, x, g, 2).isfinite(), uncut), name
