"""Normalisations: values, gradients of inputs and of weights, running statistics."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graticule
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 4, 7, 5, dtype=torch.float64) + 0.5
W = torch.randn(4, dtype=torch.float64)
B = torch.randn(4, dtype=torch.float64)


@pytest.mark.parametrize("dim", [0, 2, 3])
def test_group_norm(dim):
    for groups in (1, 2, 4):
        compare(lambda x, w, b, g=groups: F.group_norm(x, g, w, b, 1e-3), Cut(X, dim), W, B)
    compare(lambda x: F.group_norm(x, 2), Cut(X, dim))
    compare(lambda x, w: F.group_norm(x, 2, w), Cut(X, dim), W)


@pytest.mark.parametrize("shape", [(2, 4, 9), (2, 4, 3, 5, 2)])
def test_group_norm_of_other_dimensions(shape):
    x = torch.randn(shape, dtype=torch.float64)
    compare(lambda t, w, b: F.group_norm(t, 2, w, b), Cut(x, 2), W, B)


def test_group_norm_of_cut_channels():
    compare(lambda x, w, b: F.group_norm(x, 2, w, b), Cut(X, 1), W, B, gathers=True)


@pytest.mark.parametrize("normalised", [1, 2, 3])
@pytest.mark.parametrize("dim", [0, 2])
def test_layer_norm(normalised, dim):
    shape = X.shape[-normalised:]
    weight, bias = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    compare(lambda x, w, b: F.layer_norm(x, shape, w, b, 1e-4), Cut(X, dim), weight, bias)
    compare(lambda x, w: F.layer_norm(x, shape, w), Cut(X, dim), weight)
    compare(lambda x: F.layer_norm(x, shape), Cut(X, dim))


def test_layer_norm_over_everything():
    compare(lambda x: F.layer_norm(x, x.shape), Cut(X))


def test_layer_norm_over_channels_that_come_last():
    compare(lambda x, w, b: F.layer_norm(x.permute(0, 2, 3, 1), (4,), w, b), Cut(X), W, B)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_batch_norm_in_training(dim):
    compare(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), Cut(X, dim), W, B)
    compare(lambda x: F.batch_norm(x, None, None, None, None, True), Cut(X, dim))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_batch_norm_in_evaluation(dim):
    mean, variance = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
    compare(lambda x, w, b: F.batch_norm(x, mean, variance, w, b, False), Cut(X, dim), W, B)
    compare(lambda x: F.batch_norm(x, mean, variance), Cut(X, dim))


def spellings(x, w, b):
    ops = torch.ops.aten
    mean, variance = torch.zeros(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype)
    kept = [t.clone() for t in (mean, variance)]
    results = [
        ops._native_batch_norm_legit(x, w, b, *kept, True, 0.2, 1e-5)[0],
        ops._native_batch_norm_legit.no_stats(x, w, b, True, 0.2, 1e-5)[0],
    ]
    functional = ops._native_batch_norm_legit_functional(x, w, b, mean, variance, True, 0.2, 1e-5)
    results += [functional[0], functional[3], functional[4], *kept]
    updated = [t.clone() for t in (mean, variance)]
    results += [ops._batch_norm_with_update(x, w, b, *updated, 0.3, 1e-5)[0], *updated]
    functional = ops._batch_norm_with_update_functional(x, w, b, mean, variance, 0.3, 1e-5)
    results += [functional[0], functional[4], functional[5]]
    return [*results, ops._batch_norm_no_update(x, w, b, *kept, 0.3, 1e-5)[0]]


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_batch_norm_in_all_spellings(dim):
    compare(spellings, Cut(X, dim), W, B, gradients=False)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_running_statistics(momentum, dim):
    serial = nn.BatchNorm2d(4, momentum=momentum).double()
    given = copy.deepcopy(serial)
    for step in (1, 2):
        serial(step * X)
    serial.eval()
    expected = serial(X)

    def body(domain):
        module = copy.deepcopy(given)
        for step in (1, 2):
            module(graticule.shard(step * X, domain, dim=dim))
        module.eval()
        return module(graticule.shard(X, domain, dim=dim)).gather(), module.state_dict()

    for y, state in run_ranks(3, body):
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
        for name, value in serial.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-12, atol=1e-14)
            assert type(state[name]) is torch.Tensor


def test_batch_norm_of_other_dimensions():
    for shape in ((6, 4), (3, 4, 7), (2, 4, 3, 5, 2)):
        x = torch.randn(shape, dtype=torch.float64)
        for dim in (0, len(shape) - 1):
            compare(lambda t, w, b: F.batch_norm(t, None, None, w, b, True), Cut(x, dim), W, B, ranks=(1, 3))


def test_instance_norm():
    compare(lambda x, w, b: F.instance_norm(x, weight=w, bias=b), Cut(X), W, B)

    def running(x):
        mean, variance = torch.zeros(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype)
        y = F.instance_norm(x, mean, variance, momentum=0.3)
        return [y, F.instance_norm(x, mean, variance, use_input_stats=False), mean, variance]

    compare(running, Cut(X), gradients=False)


@pytest.mark.parametrize("normalised", [1, 2, 3])
@pytest.mark.parametrize("dim", [0, 2])
def test_rms_norm(normalised, dim):
    shape = X.shape[-normalised:]
    weight = torch.randn(shape, dtype=torch.float64)
    compare(lambda x, w: F.rms_norm(x, shape, w), Cut(X, dim), weight)
    compare(lambda x, w: torch.ops.aten._fused_rms_norm(x, shape, w, 1e-5)[0], Cut(X, dim), weight)


def test_local_response_norm():
    compare(lambda x: F.local_response_norm(x, 3), Cut(X))


def test_half_precision_is_as_near_as_without_a_cut():
    compare(
        lambda x, w, b: F.group_norm(x.bfloat16(), 2, w.bfloat16(), b.bfloat16()).double(), Cut(X), W, B, bound=3e-2
    )
    compare(lambda x: F.layer_norm(x.bfloat16(), (7, 5)).double(), Cut(X), bound=3e-2)
    compare(lambda x: F.batch_norm(x.float(), None, None, training=True).double(), Cut(X), bound=1e-5)


def test_statistics_of_a_large_offset():
    x = (X * 0.1 + 1e4).float().double()
    compare(lambda t: F.batch_norm(t, None, None, training=True), Cut(x), bound=1e-8)
    compare(lambda t: [F.group_norm(t, 2), F.layer_norm(t, (7, 5))], Cut(x), bound=1e-8)


def test_norms_of_weights_are_left_alone():
    torch.manual_seed(1)
    layer = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 2, 1)),
    ).double()
    layer.eval()
    expected = layer(X)
    expected.square().mean().backward()

    def body(domain):
        model = copy.deepcopy(layer)
        model.zero_grad()
        y = model(graticule.shard(X, domain))
        y.square().mean().backward()
        return y.gather().detach(), [p.grad for p in model.parameters()]

    for y, gradients in run_ranks(2, body):
        torch.testing.assert_close(y, expected.detach(), rtol=1e-10, atol=1e-12)
        for gradient, p in zip(gradients, layer.parameters(), strict=True):
            assert type(gradient) is torch.Tensor
            torch.testing.assert_close(gradient, p.grad, rtol=1e-9, atol=1e-12)


def test_cut_dimensions_that_were_merged_with_others():
    compare(lambda x, w, b: F.group_norm(x.flatten(2), 2, w, b), Cut(X), W, B)
    compare(lambda x, w, b: F.batch_norm(x.flatten(2), None, None, w, b, True), Cut(X), W, B)
    compare(lambda x: F.layer_norm(x.flatten(1, 2), (28, 5)), Cut(X))
    compare(lambda x: F.layer_norm(x.flatten(1), (140,)), Cut(X))
    tokens = torch.randn(140, dtype=torch.float64)
    compare(lambda x, w: F.layer_norm(x.flatten(1), (140,), w), Cut(X), tokens)
    compare(lambda x, w, b: F.layer_norm(x.flatten(2).transpose(1, 2), (4,), w, b), Cut(X), W, B)


def test_channels_that_lie_last_in_memory():
    x = X.to(memory_format=torch.channels_last)
    compare(lambda t, w, b: F.group_norm(t, 2, w, b), Cut(x), W, B)
    compare(lambda t, w, b: F.batch_norm(t, None, None, w, b, True), Cut(x), W, B)
    compare(lambda t: F.instance_norm(t), Cut(x))
    compare(lambda t: F.layer_norm(t, (7, 5)), Cut(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.layer_norm(x, (3, 5)),
        lambda x: F.layer_norm(x, (7, 5), W[:3, None].expand(3, 5)),
        lambda x: F.rms_norm(x, (3, 5)),
        lambda x: F.batch_norm(x, W[:3].abs(), W[:3].abs()),
        lambda x: F.batch_norm(x, None, None, W[:3], None, True),
        lambda x: F.group_norm(x, 3),
        lambda x: F.instance_norm(x, None, None, W[:3]),
    ],
)
def test_sizes_that_do_not_fit_are_refused_on_every_rank(function):
    for rows in (6, 7):
        assert sorted(failures(2, lambda domain, rows=rows: function(graticule.shard(X[:, :, :rows], domain)))) == [
            0,
            1,
        ]
