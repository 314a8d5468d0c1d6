"""Gradients that tensors keep, `.grad`: by the tensor's own cut, plain for a plain tensor."""

import pytest
import torch
from torch.nn import functional as F

import graticule
from graticule import DomainTensor
from support.ranks import relative, run_ranks

torch.manual_seed(0)
X = torch.randn(3, 7, 5, dtype=torch.float64)
P = torch.randn(3, 7, 5, dtype=torch.float64)
W = torch.randn(7, 4, dtype=torch.float64)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    "function",
    [torch.broadcast_tensors, torch.atleast_1d, torch.atleast_2d, torch.atleast_3d],
    ids=lambda f: f.__name__,
)
def test_a_parameter_that_a_function_gives_back(function, ranks):
    def body(domain):
        x, p = graticule.shard(X, domain, dim=1).requires_grad_(), P.clone().requires_grad_()
        first, second = function(x, p)
        (first * second.sin()).sum().backward()
        assert type(p.grad) is torch.Tensor and type(x.grad) is DomainTensor
        assert relative(p.grad, X * P.cos()) < 1e-13
        assert relative(x.grad.gather(), P.sin()) < 1e-13

    run_ranks(ranks, body)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: torch.trapezoid(y, dim=1),
        lambda y: y.transpose(1, 2) @ W,
        lambda y: F.linear(y.transpose(1, 2), W.T),
        lambda y: y.mean(1),
        lambda y: y[:, 3],
    ],
    ids=["trapezoid", "matmul", "linear", "mean", "row"],
)
@pytest.mark.parametrize("ranks", [1, 3])
def test_retained_gradients(function, ranks):
    def body(domain):
        made = []
        for x in (X.clone().requires_grad_(), graticule.shard(X, domain, dim=1).requires_grad_()):
            y = x * 2
            y.retain_grad()
            function(y).square().sum().backward()
            made.append(y.grad)
        assert type(made[1]) is DomainTensor and made[1].cut_dim == 1
        assert relative(made[1].gather(), made[0]) < 1e-13

    run_ranks(ranks, body)


@pytest.mark.parametrize("function", [lambda y: torch.trapezoid(y, dim=1), lambda y: y.transpose(1, 2) @ W])
def test_gradients_that_hooks_see(function):
    def body(domain):
        seen = []
        for x in (X.clone().requires_grad_(), graticule.shard(X, domain, dim=1).requires_grad_()):
            y = x * 2
            y.register_hook(lambda gradient: seen.append(gradient) or gradient * 3)
            function(y).square().sum().backward()
            seen.append(x.grad)
        assert type(seen[2]) is DomainTensor and seen[2].cut_dim == 1
        assert relative(seen[2].gather(), seen[0]) < 1e-13
        assert relative(seen[3].gather(), seen[1]) < 1e-13

    run_ranks(3, body)


def test_a_retained_gradient_after_a_write():
    def body(domain):
        made = []
        for x in (X.clone().requires_grad_(), graticule.shard(X, domain, dim=1).requires_grad_()):
            y = x * 2
            y.retain_grad()
            y.mul_(3)
            torch.trapezoid(y, dim=1).square().sum().backward()
            made.append(y.grad)
        assert type(made[1]) is DomainTensor and made[1].cut_dim == 1
        assert relative(made[1].gather(), made[0]) < 1e-13

    run_ranks(3, body)


def test_leaves_can_be_swapped():
    def body(domain):
        x, y = (graticule.shard(t, domain, dim=1).requires_grad_() for t in (X, P))
        torch.utils.swap_tensors(x, y)
        assert torch.equal(x.detach().gather(), P)

    run_ranks(2, body)


def test_a_leaf_of_other_data():
    def body(domain):
        x = graticule.shard(X, domain, dim=1).requires_grad_()
        x.data = graticule.shard(X, domain, dim=2)
        x.sin().sum().backward()
        assert x.grad.cut_dim == 2
        assert relative(x.grad.gather(), X.cos()) < 1e-13

    run_ranks(3, body)


def test_anomaly_detection_gathers_nothing():
    def body(domain):
        x = graticule.shard(X, domain, dim=1).requires_grad_()
        with graticule.report(strict=True), torch.autograd.detect_anomaly(check_nan=True):
            x.sin().square().mean().backward()

    run_ranks(2, body)
