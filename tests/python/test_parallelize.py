"""parallelize(): the same model, with layers that take DomainTensors straight to the cut kernels."""

import copy

import pytest
import torch
from torch import nn

import graticule
from graticule import parallelize, unparallelize
from support.ranks import failures, run_ranks

CASES = {
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 11, 6)),
    "even kernel": (lambda: nn.Conv2d(3, 4, 4, stride=3, padding=2, dilation=2), (2, 3, 19, 11)),
    "no bias, groups": (lambda: nn.Conv2d(4, 4, (1, 3), groups=2, bias=False), (2, 4, 11, 6)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 11, 6)),
    "same": (lambda: nn.Conv2d(3, 4, 4, padding="same"), (2, 3, 11, 6)),
    "1-D": (lambda: nn.Conv1d(3, 4, 3, padding=1), (2, 3, 11)),
    "3-D": (lambda: nn.Conv3d(3, 4, 3, padding=1), (2, 3, 4, 11, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 4, 2, 1, output_padding=1), (2, 3, 11, 6)),
    "transposed 3-D": (lambda: nn.ConvTranspose3d(3, 4, 3, 2, 1), (1, 3, 3, 7, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (2, 4, 11, 6)),
    "group norm without weights": (lambda: nn.GroupNorm(2, 4, affine=False), (2, 4, 11, 6)),
    "a model": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, 2, 1)),
            nn.utils.spectral_norm(nn.Conv2d(8, 8, 1)),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
        ),
        (2, 3, 13, 6),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_exact(name):
    build, shape = CASES[name]
    torch.manual_seed(0)
    original = build().double()
    x = torch.randn(shape, dtype=torch.float64)

    def body(domain):
        model = parallelize(copy.deepcopy(original), domain, -2 if len(shape) > 3 else -1)
        found = graticule.verify(model, x, domain, dim=-2 if len(shape) > 3 else -1)
        assert found.exact, found
        assert not found.report.gathers
        assert list(model.state_dict()) == list(original.state_dict())
        model.load_state_dict(original.state_dict())
        build().double().load_state_dict(model.state_dict())

    for ranks in (1, 2, 3):
        run_ranks(ranks, body)


def test_a_shared_and_a_frozen_parameter():
    torch.manual_seed(0)
    first = nn.Conv2d(4, 4, 3, padding=1)
    original = nn.Sequential(first, nn.SiLU(), first, nn.GroupNorm(2, 4)).double()
    original[3].weight.requires_grad_(False)
    x = torch.randn(1, 4, 9, 5, dtype=torch.float64)

    def body(domain):
        model = parallelize(copy.deepcopy(original), domain)
        assert model[0] is model[2]
        assert graticule.verify(model, x, domain).exact

    run_ranks(3, body)


def test_the_way_back():
    build, _ = CASES["a model"]
    torch.manual_seed(0)
    original = build().double().eval()
    copies = [copy.deepcopy(original) for _ in range(2)]
    x = torch.randn(1, 8, 5, 4, dtype=torch.float64)
    expected = original[1:](x)

    def body(domain):
        own = copies[domain.rank]
        modules = dict(own.named_modules())
        model = parallelize(own, domain)
        assert type(model[0]) is not nn.Conv2d
        with torch.no_grad():
            model[0].weight.mul_(2)
        assert unparallelize(model) is own
        assert dict(own.named_modules()) == modules
        assert torch.equal(own[0].weight, 2 * original[0].weight)
        assert list(own.state_dict()) == list(original.state_dict())
        assert torch.equal(own[1:](x), expected)
        alone = parallelize(nn.Conv2d(3, 4, 3), domain)
        assert type(unparallelize(alone)) is nn.Conv2d

    run_ranks(2, body)


def test_other_inputs_take_the_modules_way():
    conv = nn.Conv2d(4, 4, 3, padding=1).double()
    x = torch.randn(6, 4, 9, 5, dtype=torch.float64)

    def body(domain):
        model = parallelize(copy.deepcopy(conv), domain)
        assert torch.equal(model(x), conv(x))
        for dim in (0, 3):
            y = model(graticule.shard(x, domain, dim))
            assert torch.allclose(y.gather(), conv(x))

    run_ranks(2, body)


def test_layers_are_called_and_read_as_the_modules_are():
    up = nn.ConvTranspose2d(3, 4, 3, 2, 1).double()
    x = torch.randn(1, 3, 7, 5, dtype=torch.float64)
    expected = up(x, output_size=[14, 10])

    def body(domain):
        layer = parallelize(nn.Sequential(copy.deepcopy(up)), domain)[0]
        assert layer.stride == (2, 2) and layer.in_channels == 3
        y = layer(graticule.shard(x, domain), output_size=[14, 10])
        assert torch.equal(layer(input=x), up(x))
        return y.gather()

    for y in run_ranks(2, body):
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 2, 3, padding=1).double(), nn.GroupNorm(3, 3).double()], ids=type)
def test_writes_that_autograd_must_see(layer):
    """Into what a layer has saved, and into what a view was moved from."""
    whole = torch.randn(1, 3, 7, 5, dtype=torch.float64)

    def writes_into_saved(model, x):
        h = x.requires_grad_() * 1
        y = model(h)
        with torch.no_grad():
            h.mul_(3)
        y.sum().backward()

    def reads_a_stale_view(model, x):
        with torch.no_grad():
            x = x * 1
            view = x.view(1, 3, 5, 7)
            x.mul_(-2)
            model(view)

    for step, message in [
        (writes_into_saved, "modified by an inplace operation"),
        (reads_a_stale_view, "take it again"),
    ]:
        errors = failures(
            2,
            lambda domain, step=step: step(
                parallelize(nn.Sequential(copy.deepcopy(layer)), domain), graticule.shard(whole, domain)
            ),
        )
        assert len(errors) == 2 and all(message in str(error) for error in errors.values()), errors


def test_weights_of_another_length_are_an_error():
    def body(domain):
        model = parallelize(nn.Sequential(nn.GroupNorm(2, 8)), domain)
        model[0].weight = nn.Parameter(torch.ones(3))
        with pytest.raises((ValueError, RuntimeError), match=r"3"):
            model(graticule.shard(torch.randn(1, 8, 6, 4), domain))

    run_ranks(2, body)
