"""verify(): what it compares, restores and refuses."""

import dataclasses

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
