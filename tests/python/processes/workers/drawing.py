"""Dropout over processes, from torch's own generator: what one process draws, checkpoints included; drifts found."""

import copy
import os

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import graticule
from graticule.tensor.random import by_position
from support.ranks import relative
from support.transport import domains, end


def step(model, x, checkpoints):
    torch.manual_seed(12)
    for _ in range(2):
        y = checkpoint(model, x, use_reentrant=False) if checkpoints else model(x)
        (y * torch.rand(y.shape[1], 1, 1, dtype=y.dtype)).square().mean().backward()
    return [p.grad for p in model.parameters()], torch.get_rng_state()


def finds_drifting_noise_of_channels(model, x, domain):
    """In check mode; what Dropout2d draws is a plain tensor."""
    os.environ["GRATICULE_CHECK"] = "1"
    step(copy.deepcopy(model), graticule.shard(x, domain), True)
    cut = graticule.shard(x, domain)
    torch.manual_seed(domain.rank)
    try:
        nn.Dropout2d(0.3)(cut + 1)
    except RuntimeError as error:
        assert "generator" in str(error), error
    else:
        raise AssertionError("noise that differs between ranks was not found")
    del os.environ["GRATICULE_CHECK"]


def main():
    (domain,) = domains("gloo", 1)
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(0.4), nn.GELU(), nn.Dropout2d(0.3), nn.Conv2d(8, 3, 1)]
    model = nn.Sequential(*layers).double()
    x = torch.randn(2, 3, 11, 6, dtype=torch.float64)
    with by_position():
        expected, state = step(copy.deepcopy(model), x, False)
        for checkpoints in (False, True):
            found, own_state = step(copy.deepcopy(model), graticule.shard(x, domain), checkpoints)
            assert torch.equal(own_state, state)
            for value, reference in zip(found, expected, strict=True):
                assert relative(value, reference) < 1e-12, (domain.rank, checkpoints)
    graticule.check_generators(domain)
    if domain.rank == 1:
        torch.rand(1)
    try:
        graticule.check_generators(domain)
    except RuntimeError as error:
        assert "check_generators" in str(error)
    else:
        raise AssertionError("a drift was not found")
    graticule.synchronize_generators(domain)
    graticule.check_generators(domain)
    finds_drifting_noise_of_channels(model, x, domain)
    if domain.rank == 0:
        print("drawn alike")
    end("gloo")


main()
