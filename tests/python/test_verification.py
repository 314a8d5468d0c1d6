"""verify(): what it compares, restores and refuses."""

import copy
import dataclasses
import types

import pytest
import torch
from torch import nn

import graticule
from support.ranks import failures, run_ranks

X = torch.randn(2, 3, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Average(nn.Module):
    """Keeps a mean in a buffer that it makes anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean().detach()
        return x - self.mean


class Returned(nn.Module):
    """Gives the buffer itself, which it has changed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.total += x.detach().sum()
        return x * 2, self.total


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((4, 4), -torch.inf, dtype=torch.float64).triu(1))

    def forward(self, x):
        return (x + self.mask[0]).softmax(-1)


class Chosen(nn.Module):
    def forward(self, x):
        return x.argmax(1)


class Transformed(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x, dim=-1)


@pytest.mark.parametrize("kind", [Average, Returned, Masked, Chosen, Transformed])
def test_exact_and_restored(kind):
    def body(domain):
        model = kind()
        before = {name: t.clone() for name, t in model.named_buffers()}
        found = graticule.verify(model, X, domain)
        assert found.exact, found
        for name, t in model.named_buffers():
            assert type(t) is torch.Tensor and torch.equal(t, before[name])

    run_ranks(2, body)


@dataclasses.dataclass
class Batch:
    x: torch.Tensor


class OfBatch(nn.Module):
    def forward(self, batch):
        return batch.x * 2


def test_a_container_that_cannot_be_cut_is_refused():
    found = failures(2, lambda domain: graticule.verify(OfBatch(), (Batch(X),), domain))
    assert len(found) == 2 and all("could not be cut" in str(error) for error in found.values())


class _CountedTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        times = 2 if isinstance(x, graticule.DomainTensor) else 1
        return gradient * scale, times * (gradient * x).sum()


class Scaled(nn.Module):
    """Right but for its parameter's gradient, where its input is cut; or but for its buffer."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.fault == "seen":
            self.seen += isinstance(x, graticule.DomainTensor)
        return _CountedTwice.apply(x, self.scale) if self.fault == "scale" else x * self.scale


@pytest.mark.parametrize(("fault", "kind"), [("scale", "parameter gradient"), ("seen", "buffer")])
def test_names_the_module_whose_own_gradient_or_buffer_differs(fault, kind):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.SiLU(), Scaled(fault))).double()

    def body(domain):
        return graticule.verify(copy.deepcopy(model), X, domain).first_module

    assert set(run_ranks(2, body)) == {f"{kind} 1.1.{fault} of 1.1 (Scaled)"}


class OfNamespace(nn.Module):
    def forward(self, x):
        return types.SimpleNamespace(y=x.local if isinstance(x, graticule.DomainTensor) else x)


def test_an_output_that_is_not_looked_into_is_refused():
    found = failures(2, lambda domain: graticule.verify(OfNamespace(), X, domain))
    assert len(found) == 2 and all("no tensor in the model's output" in str(error) for error in found.values())
