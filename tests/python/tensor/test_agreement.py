"""Ranks that do not make the same calls on DomainTensors: an error on each, where sums have the same bytes."""

import pytest
import torch
from torch import nn

import graticule
from support.ranks import failures, run_ranks

ONES = torch.ones(2, 3, 8, 6, dtype=torch.float64)


def narrower(domain, dim=3):
    whole = ONES.narrow(dim, 0, ONES.shape[dim] - 1) if domain.rank == 1 else ONES
    return graticule.shard(whole, domain, dim=2)


def each_raises(ranks, body, text):
    found = failures(ranks, body)
    assert len(found) == ranks, found
    assert any(text in str(error) for error in found.values()), found


@pytest.mark.parametrize("dim", [0, 1, 3])
@pytest.mark.parametrize(
    "function",
    [torch.mean, torch.sum, torch.var, torch.amax, lambda x: x.softmax(2), lambda x: x.cumsum(2), torch.linalg.norm],
)
def test_another_shape_on_one_rank(function, dim):
    each_raises(2, lambda domain: function(narrower(domain, dim)), "[2, 3, 8, 6]")


def test_another_shape_behind_layers_without_messages():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.Conv2d(4, 2, 1)).double()
    each_raises(3, lambda domain: net(narrower(domain)).square().mean().backward(), "do not make the same calls")


def test_a_mismatch_that_one_rank_sees_ends_the_others():
    def body(domain):
        # One row on rank 0, which may be broadcast, and two on the others.
        x = graticule.shard(torch.arange(5.0), domain, dim=0)
        try:
            (x - x.local).square().sum()
        finally:
            x.sum()

    found = failures(3, lambda domain: body(domain))
    assert len(found) == 3, found


def test_check_mode_compares_every_call(monkeypatch):
    monkeypatch.setenv("GRATICULE_CHECK", "1")

    def alike(domain):
        x = graticule.shard(ONES, domain, dim=2).requires_grad_()
        y = nn.functional.conv2d(x.sin(), torch.ones(2, 3, 3, 3, dtype=torch.float64), padding=1)
        y.square().mean().backward()

    run_ranks(2, alike)

    def otherwise(domain):
        x = graticule.shard(ONES, domain, dim=2)
        return (x.sin() if domain.rank else x.cos()).sum()

    each_raises(2, otherwise, "aten.cos")


def test_wrong_channels_are_named():
    conv = nn.Conv2d(4, 2, 3, padding=1).double()
    each_raises(2, lambda domain: conv(graticule.shard(ONES, domain, dim=2)), "expected an input of 4 channels")
