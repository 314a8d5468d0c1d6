"""Attention as models spell it: modules of torch, windows and long-range windows, axes, shorter keys."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graticule
from graticule.tensor.random import by_position
from support.ranks import run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
attention = F.scaled_dot_product_attention


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def argument(t, dim):
    return t if dim is None else Cut(t, dim)


def called(module, tensors, parameters, **options):
    """Ranks are threads: each calls a module of its own."""
    names = [name for name, _ in module.named_parameters()]
    return torch.func.functional_call(
        copy.deepcopy(module), dict(zip(names, parameters, strict=True)), tensors, options
    )


EXTRAS = [{"add_bias_kv": True}, {"add_zero_attn": True}, {"bias": False}, {"kdim": 6, "vdim": 5}]


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: next(iter(extra)))
@pytest.mark.parametrize("need_weights", [True, False])
def test_cross_attention(extra, need_weights):
    module = nn.MultiheadAttention(8, 2, batch_first=True, **extra).double()
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[:, 3:] = True

    def function(q, k, v, *parameters):
        out, weights = called(module, (q, k, v), parameters, need_weights=need_weights, key_padding_mask=padding)
        return (out, weights) if need_weights else out

    values = randn(2, 7, 8), randn(2, 5, extra.get("kdim", 8)), randn(2, 5, extra.get("vdim", 8))
    parameters = [p.detach() for p in module.parameters()]
    for dims in ((1, 1, 1), (1, None, None), (None, 1, 1), (0, 0, 0)):
        given = [argument(t, dim) for t, dim in zip(values, dims, strict=True)]
        # Masks that are joined with columns of zeros are small.
        compare(function, *given, *parameters, ranks=(3,), gathers=True)


def test_dropout_in_a_module():
    module = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.4).double()
    for need_weights in (True, False):

        def function(x, *parameters, need_weights=need_weights):
            with by_position(torch.Generator().manual_seed(3)):
                return called(module, (x, x, x), parameters, need_weights=need_weights)[0]

        for dim in (0, 1):
            compare(function, Cut(randn(2, 7, 8), dim), *(p.detach() for p in module.parameters()), ranks=(1, 3))


def test_a_decoder():
    module = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)

    def function(x, memory, *parameters):
        return called(module, (x, memory), parameters, tgt_mask=mask, tgt_is_causal=True)

    parameters = [p.detach() for p in module.parameters()]
    for i, j in ((1, None), (None, 1), (1, 1)):
        compare(function, argument(randn(2, 7, 8), i), argument(randn(2, 5, 8), j), *parameters, ranks=(3,))


def test_shifted_windows_by_hand():
    mask = torch.where(torch.rand(1, 6, 6) > 0.5, 0.0, -100.0).double()

    def function(x, w, out, table, scale):
        b, h, width, c = x.shape
        y = torch.roll(x, (-1, -1), (1, 2))
        y = y.view(b, h // 2, 2, width // 3, 3, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 6, c)
        windows = (h // 2) * (width // 3)
        q, k, v = F.linear(y, w).reshape(-1, 6, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        a = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        a = a * scale.exp() + table.view(2, 6, 6).unsqueeze(0)
        masks = mask.expand(windows, 6, 6).unsqueeze(1).unsqueeze(0)
        a = (a.view(b, windows, 2, 6, 6) + masks).view(-1, 2, 6, 6).softmax(-1)
        o = F.linear((a @ v).transpose(1, 2).reshape(-1, 6, c), out)
        o = o.view(b, h // 2, width // 3, 2, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, width, c)
        return x + torch.roll(o, (1, 1), (1, 2))

    weights = randn(12, 4), randn(4, 4), randn(2, 36), randn(2, 1, 1)
    compare(function, Cut(randn(2, 12, 6, 4), 1), *weights, ranks=(1, 2, 3))


def test_long_range_windows():
    def function(x, w):
        b, c, h, width = x.shape
        y = x.view(b, c, 2, h // 2, 3, width // 3).permute(0, 3, 5, 2, 4, 1).reshape(-1, 6, c)
        q, k, v = F.linear(y, w).view(-1, 6, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        o = attention(q, k, v).transpose(1, 2).reshape(-1, 6, c)
        return o.view(b, h // 2, width // 3, 2, 3, c).permute(0, 5, 3, 1, 4, 2).reshape(b, c, h, width)

    compare(function, Cut(randn(2, 4, 12, 6), 2), randn(12, 4), ranks=(1, 2, 3))


def test_along_the_cut_axis():
    def function(x, w):
        b, c, h, width = x.shape
        y = x.permute(0, 3, 2, 1).reshape(b * width, h, c)
        q, k, v = (t.view(-1, h, 2, c // 2).transpose(1, 2) for t in F.linear(y, w).chunk(3, -1))
        return attention(q, k, v).transpose(1, 2).reshape(b, width, h, c).permute(0, 3, 2, 1)

    compare(function, Cut(randn(2, 4, 7, 6), 2), randn(12, 4), ranks=(1, 2, 3))


def test_keys_of_a_coarser_grid():
    def function(x, w, reduce):
        b, c, _, _ = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        coarse = F.layer_norm(F.conv2d(x, reduce, stride=2).flatten(2).transpose(1, 2), (c,))
        q, k = (F.linear(t, w).view(b, -1, 2, c // 2).transpose(1, 2) for t in (tokens, coarse))
        o = attention(q, k, k * 0.5) + q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ k)
        return o.transpose(1, 2).reshape(b, -1, c)

    compare(function, Cut(randn(2, 4, 8, 6), 2), randn(4, 4), randn(4, 4, 2, 2), ranks=(1, 2, 3))


def test_tokens_of_several_levels():
    """A rank's tokens are no interval: rows lie within levels."""
    bias = randn(21, 21)

    def function(x):
        t = x.reshape(1, 1, -1, x.shape[-1])
        with by_position(torch.Generator().manual_seed(3)):
            dropped = attention(t, t * 0.3, t.sin(), dropout_p=0.3)
        return attention(t, t * 0.3, t.sin(), is_causal=True) + attention(t, t * 0.3, t.cos(), bias) + dropped

    for dim in (1, 2):
        compare(function, Cut(randn(1, 3, 7, 4), dim), ranks=(1, 2, 3))


def test_batches_that_hold_the_rows():
    def function(x):
        t = x.permute(0, 2, 1, 3, 4).reshape(-1, 2, 3, 4)
        with by_position(torch.Generator().manual_seed(3)):
            return attention(t, t * 0.3, t.sin(), dropout_p=0.3) + attention(t, t, t, is_causal=True)

    compare(function, Cut(randn(2, 2, 7, 3, 4), 2), ranks=(1, 2, 3))


def test_autocast():
    """As far from the truth as the uncut call, which rounds to the same type."""
    x, w = torch.randn(1, 1, 40, 8), torch.randn(8, 8)

    def function(x, w, enabled=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            q = F.linear(x, w)
            return attention(q, x, q)

    truth = function(x.double(), w.double(), False)
    serial = function(x, w)

    def body(domain):
        y = function(graticule.shard(x, domain), w)
        assert y.dtype == serial.dtype == torch.bfloat16
        return (y.gather().double() - truth).abs().max()

    uncut_error = (serial.double() - truth).abs().max()
    assert all(error <= 1.5 * uncut_error for error in run_ranks(3, body))


def test_inference_mode():
    module, linear, x = (
        nn.MultiheadAttention(8, 2, batch_first=True).double().eval(),
        nn.Linear(8, 8).double(),
        randn(2, 7, 8),
    )

    def function(x):
        with torch.inference_mode():
            y = linear(x)
            return module(x, x, x)[0], y @ y.transpose(1, 2), attention(x[:, None], x[:, None], x[:, None])

    expected = function(x)

    def body(domain):
        with graticule.report(strict=True), torch.inference_mode():
            found = [y.gather() for y in function(graticule.shard(x, domain, dim=1))]
        for y, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(y, reference, rtol=1e-10, atol=1e-12)

    run_ranks(3, body)
