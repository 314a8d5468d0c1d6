"""Activations, forward and backward, in place and not."""

import pytest
import torch
from torch.nn import functional as F

import graticule
from support.ranks import run_ranks
from tensor.comparison import Cut, compare

ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 1.3),
    "elu in place": lambda x: F.elu(x * 1.0, 0.7, inplace=True),
    "leaky_relu in place": lambda x: F.leaky_relu(x * 1.0, 0.2, inplace=True),
    "celu": lambda x: F.celu(x, 0.7),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "silu in place": lambda x: F.silu(x * 1.0, inplace=True),
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, 2.0, 1.5),
    "softsign": F.softsign,
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "tanhshrink": F.tanhshrink,
    "hardtanh": lambda x: F.hardtanh(x, -0.4, 0.6),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
    "threshold": lambda x: F.threshold(x, 0.2, -1.0),
    "glu over channels": lambda x: F.glu(x, 1),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(5)) * 2


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    compare(ACTIVATIONS[name], Cut(values(2, 4, 7, 3), 2), ranks=(1, 3))


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 4])
def test_prelu(channels, dim):
    compare(F.prelu, Cut(values(5, 4, 7, 3), dim), values(channels).abs(), ranks=(1, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["logsigmoid", "glu over channels"])
def test_half_types_gather_nothing(name, dtype):
    """And give the bits of the uncut call, which rounds once."""
    function, whole = ACTIVATIONS[name], values(2, 4, 7, 3).to(dtype)

    def body(domain):
        x, uncut = graticule.shard(whole, domain, dim=2).requires_grad_(), whole.clone().requires_grad_()
        with graticule.report(strict=True):
            y = function(x)
            (y * y).sum().backward()
        expected = function(uncut)
        (expected * expected).sum().backward()
        assert torch.equal(y.gather(), expected)
        assert torch.equal(x.grad.gather(), uncut.grad)

    run_ranks(3, body)
