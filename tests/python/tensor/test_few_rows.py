"""Ranks of one row or none: they see no order in memory, and have to agree with the others about it.

Torch chooses by strides what an op is made of, and so what the ranks send.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graticule
from support.ranks import relative, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)

IMAGE = torch.randn(2, 3, 5, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
TOKENS = torch.randn(2, 5, 4, dtype=torch.float64)
KERNEL = torch.randn(8, 3, 3, 3, dtype=torch.float64)
ROWS = torch.tensor([4, 0, 2, 1])

# On 3 ranks 5 rows are 1, 2 and 2, on 7 some ranks have none.
OPS = {
    "convolution": (lambda x: F.conv2d(x, KERNEL, padding=1), IMAGE, 2),
    "transposed convolution": (lambda x: F.conv_transpose2d(x, KERNEL.transpose(0, 1)), IMAGE, 2),
    "group norm": (lambda x: F.group_norm(x, 1), IMAGE, 2),
    "max pooling": (lambda x: F.max_pool2d(x, 3, 1, 1), IMAGE, 2),
    "adaptive max pooling": (lambda x: F.adaptive_max_pool2d(x, (5, 2)), IMAGE, 2),
    "interpolation": (lambda x: F.interpolate(x, (5, 8), mode="bilinear"), IMAGE, 2),
    "reflection": (lambda x: F.pad(x, (1, 1, 0, 0), mode="reflect"), IMAGE, 2),
    "circular padding": (lambda x: F.pad(x, (0, 0, 1, 1), mode="circular"), IMAGE, 2),
    "index": (lambda x: x[:, ROWS], TOKENS, 1),
    "index_select": (lambda x: x.index_select(1, ROWS), TOKENS, 1),
    "index in channels_last": (lambda x: x[:, :, ROWS], IMAGE, 2),
    "cumsum": (lambda x: x.cumsum(2), IMAGE, 2),
    "softmax": (lambda x: x.softmax(2), IMAGE, 2),
    "Fourier transform": (lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), n=5, dim=1), TOKENS, 1),
    "roll": (lambda x: x.roll(1, 2), IMAGE, 2),
    "flip": (lambda x: x.flip(2), IMAGE, 2),
    "batch norm": (lambda x: F.batch_norm(x.transpose(1, 2), None, None, training=True), TOKENS, 1),
    "attention": (lambda x: F.scaled_dot_product_attention(*[x.transpose(0, 1)] * 3), TOKENS, 1),
}


@pytest.mark.parametrize("ranks", [3, 7])
@pytest.mark.parametrize("name", OPS)
def test_ranks_agree_about_strides(name, ranks):
    function, x, dim = OPS[name]

    def body(domain):
        y = function(graticule.shard(x, domain, dim))
        order = [d for d in sorted(range(y.dim()), key=y.stride) if y.local.shape[d] > 1]
        own = [d for d in sorted(range(y.dim()), key=y.local.stride) if y.local.shape[d] > 1]
        assert own == order or y.local.numel() == 0, (
            f"rows lie as {y.local.stride()}, the whole is said to as {y.stride()}"
        )
        return tuple(y.stride())

    assert len(set(run_ranks(ranks, body))) == 1


@pytest.mark.parametrize("name", ["convolution", "group norm", "index in channels_last"])
def test_tokens_of_few_rows_meet_weights(name):
    """By the strides of its tokens torch makes one product of them, or a product and a sum."""
    function, x, _ = OPS[name]
    features = function(x).shape[1]
    w, b = torch.randn(6, features, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    compare(lambda x, w, b: F.linear(function(x).flatten(2).transpose(1, 2), w, b), Cut(x), w, b, ranks=(3, 7))


@pytest.mark.parametrize("name", ["convolution", "group norm", "index", "index_select"])
def test_writes_reach_what_shares_memory(name):
    function, x, dim = OPS[name]

    def write(x):
        y = function(x) * 1
        y.contiguous().mul_(2)
        return y

    compare(write, Cut(x, dim), ranks=(2, 3), gradients=False)


def test_writes_into_views_of_another_order_of_dimensions():
    """A reshape of them is a copy uncut."""
    x = torch.empty_strided((2, 3, 4, 2, 3), (24, 2, 6, 1, 48), dtype=torch.float64).normal_()

    def write(x):
        y = x * 1
        y.unflatten(4, (1, 3)).flatten(0, 1).mul_(2)
        return y

    compare(write, Cut(x, 2), ranks=(2, 3), gradients=False)

    def body(domain):
        return write(graticule.shard(x, domain, 2)).gather()

    assert all(torch.equal(y, write(x)) for y in run_ranks(3, body))


def test_rows_taken_by_an_index_can_be_viewed():
    compare(lambda x: [x[:, ROWS].view(2, -1), x.index_select(1, ROWS).view(8, 4)], Cut(TOKENS, 1), gathers=True)


LAYERS = {
    "convolution": lambda: nn.Conv2d(3, 8, 3, padding=1),
    "transposed convolution": lambda: nn.ConvTranspose2d(3, 8, 3, padding=1),
    "group norm": lambda: nn.GroupNorm(1, 3),
}


@pytest.mark.parametrize("ranks", [3, 7])
@pytest.mark.parametrize("name", LAYERS)
def test_tokens_of_a_parallelized_layer_meet_weights(name, ranks):
    torch.manual_seed(1)
    model = nn.Sequential(LAYERS[name](), nn.Flatten(2)).double()
    linear = nn.Linear(8 if "convolution" in name else 3, 6).double()
    x = IMAGE.clone().requires_grad_()
    linear(model(x).transpose(1, 2)).square().sum().backward()

    def body(domain):
        own, head = graticule.parallelize(copy.deepcopy(model), domain), copy.deepcopy(linear)
        own.zero_grad()
        head.zero_grad()
        mine = graticule.shard(IMAGE, domain).requires_grad_()
        head(own(mine).transpose(1, 2)).square().sum().backward()
        return mine.grad.gather(), head.bias.grad

    for of_x, of_bias in run_ranks(ranks, body):
        assert relative(of_x, x.grad) < 1e-11
        assert relative(of_bias, linear.bias.grad) < 1e-11
