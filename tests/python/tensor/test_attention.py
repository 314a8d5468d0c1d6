"""Attention in all its spellings: cut along batches, heads or tokens, with masks, biases, and shared heads."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import graticule
from graticule import DomainTensor
from graticule.tensor.random import by_position
from graticule.tensor.rules import attention_blocks
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def argument(t, dim):
    return t if dim is None else Cut(t, dim)


def qkv(*shape, keys=None):
    *batch, tokens, features = shape
    return [randn(*shape), *(randn(*batch, keys or tokens, features) for _ in range(2))]


def cut(tensors, *dims):
    return [argument(t, dim) for t, dim in zip(tensors, dims if len(dims) > 1 else dims * len(tensors), strict=True)]


attention = F.scaled_dot_product_attention
CUTS = [
    (0, 0, 0),
    (1, 1, 1),
    (2, 2, 2),
    (3, 3, 3),
    (2, None, None),
    (None, 2, 2),
    (None, 2, None),
    (2, None, 2),
    (0, 2, 2),
    (2, 1, 3),
    (None, 1, None),
    (3, None, None),
    (None, 3, 3),
]


@pytest.mark.parametrize("dims", CUTS, ids=str)
def test_every_cut(dims):
    compare(attention, *cut(qkv(2, 3, 7, 4, keys=7), *dims), ranks=(1, 2, 4))


@pytest.mark.parametrize("shape", [(1, 1, 7, 4), (2, 4, 7, 4), (3, 7, 4), (7, 4), (2, 1, 2, 7, 4)], ids=str)
def test_every_number_of_dimensions(shape):
    tokens = len(shape) - 2
    compare(attention, *cut(qkv(*shape), tokens), ranks=(2, 3))
    compare(lambda q, k, v: attention(q, k, v, is_causal=True), *cut(qkv(*shape), tokens), ranks=(3,))
    compare(attention, *cut(qkv(*shape, keys=5), tokens), ranks=(3,))


BIASES = [(7, 6), (1, 6), (6,), (1, 3, 7, 6), (2, 3, 7, 6), (2, 1, 1, 6), (3, 7, 6)]
# The same for all keys, they change nothing: their gradients are zero.
WITHOUT_KEYS = [(7, 1), (1, 1)]


@pytest.mark.parametrize("dims", [(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, None, None), (None, 2, 2)], ids=str)
def test_biases_with_gradients(dims):
    """Heads of one batch cannot be shared by 2 ranks, nor 2 batches by 3: keys go round."""
    for bias in BIASES:
        compare(attention, *cut(qkv(2, 3, 7, 4, keys=6), *dims), randn(*bias), ranks=(3,) if bias == (7, 6) else (2,))
    for bias in WITHOUT_KEYS:
        compare(attention, *cut(qkv(2, 3, 7, 4, keys=6), *dims), randn(*bias), ranks=(2,), gradients=False)


def test_cut_biases():
    for dims, i in itertools.product([(2, 2, 2), (0, 0, 0), (None, 2, 2), (None, None, None)], range(4)):
        given = cut(qkv(1, 1, 7, 4, keys=6), *dims)
        compare(attention, *given, Cut(randn(1, 1, 7, 6), i), ranks=(3,))
    compare(attention, *cut(qkv(1, 3, 7, 4), 2), Cut(randn(3, 7, 7), 1), ranks=(2,))


def test_biases_that_mask():
    bias = randn(7, 7)
    bias[:, 4:6] = -math.inf
    bias[2] = -math.inf
    for dims in ((0, 0, 0), (2, 2, 2), (None, 2, 2), (2, None, None)):
        compare(attention, *cut(qkv(1, 2, 7, 4), *dims), bias, ranks=(1, 3))


def rows_masked():
    mask = torch.rand(7, 7) > 0.4
    mask[:, 0] = True
    return mask


def test_boolean_masks():
    nothing = rows_masked()
    nothing[3] = False
    for mask in (rows_masked(), torch.ones(7, 7, dtype=torch.bool).tril(), nothing):
        for dims in ((0, 0, 0), (2, 2, 2), (None, 2, 2), (2, None, None)):
            compare(attention, *cut(qkv(2, 1, 7, 4), *dims), mask, ranks=(3,))
    compare(attention, *cut(qkv(1, 1, 7, 4), 2), Cut(rows_masked(), 0), ranks=(2, 3))


def test_options():
    for dims in ((1, 1, 1), (2, 2, 2), (None, 2, 2), (2, None, None)):
        given = cut(qkv(1, 3, 7, 4, keys=5), *dims)
        compare(lambda q, k, v: attention(q, k, v, scale=0.3), *given, ranks=(2,))
        compare(lambda q, k, v: attention(q, k, v, is_causal=True), *given, ranks=(1, 2))
    values = [randn(1, 2, 7, 4), randn(1, 2, 5, 4), randn(1, 2, 5, 3)]
    for dims in ((1, 1, 1), (2, 2, 2), (None, 2, 2)):
        compare(attention, *cut(values, *dims), ranks=(2, 3))


def test_heads_that_share_keys():
    def function(q, k, v):
        return attention(q, k, v, enable_gqa=True)

    values = [randn(2, 6, 7, 4), randn(2, 3, 7, 4), randn(2, 3, 7, 4)]
    for dims in ((0, 0, 0), (1, 1, 1), (2, 2, 2), (1, None, None), (None, 1, 1), (2, None, None), (None, 2, 2)):
        compare(function, *cut(values, *dims), ranks=(2, 3))
    compare(lambda q, k, v: attention(q, k, v, randn(7, 7) * 0, enable_gqa=True), *cut(values, 2), ranks=(3,))


def test_batches_that_broadcast_come_apart():
    values = [randn(2, 3, 7, 4), randn(1, 3, 5, 4), randn(1, 3, 5, 4)]
    compare(attention, *cut(values, 2), ranks=(1, 2, 3))
    compare(attention, *cut(values, 2, None, None), randn(7, 5), ranks=(2,))


def test_a_mask_and_causal_are_refused_together():
    def body(domain):
        x = graticule.shard(randn(1, 1, 7, 4), domain)
        attention(x, x, x, torch.ones(7, 7), is_causal=True)

    assert len(failures(2, body)) == 2


@pytest.mark.parametrize("dims", [(0, 0, 0), (1, 1, 1), (2, 2, 2), (None, 2, 2), (2, None, None)], ids=str)
def test_dropout_is_that_of_the_whole(dims):
    def function(q, k, v):
        with by_position(torch.Generator().manual_seed(3)):
            return attention(q, k, v, dropout_p=0.4)

    compare(function, *cut(qkv(1, 1, 7, 4, keys=5), *dims), ranks=(1, 2, 3))
    compare(function, *cut(qkv(2, 3, 7, 4, keys=5), *dims), ranks=(3,))
    compare(lambda q, k, v: attention(q, k, v, dropout_p=1.0), *cut(qkv(1, 1, 7, 4, keys=5), *dims), ranks=(2,))


def test_the_matrix_is_made_in_pieces(monkeypatch):
    monkeypatch.setattr(attention_blocks, "CHUNK", 16)
    compare(attention, *cut(qkv(1, 1, 7, 4), 2), randn(7, 7), ranks=(1, 2))
    compare(attention, *cut(qkv(2, 3, 7, 4), 0), randn(3, 7, 7), ranks=(2,))
    compare(lambda q, k, v: attention(q, k, v, is_causal=True), *cut(qkv(1, 1, 7, 4), 2), ranks=(2,))


def by_hand(q, k, v):
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return weights @ v


def test_by_hand():
    for dims in ((0, 0, 0), (1, 1, 1), (2, 2, 2), (2, None, None), (None, 2, 2)):
        compare(by_hand, *cut(qkv(2, 3, 7, 4), *dims), ranks=(1, 3))
    compare(
        lambda q, k, v: torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v),
        *cut(qkv(2, 3, 7, 4), 2),
        ranks=(2, 3),
    )


def test_by_hand_the_matrix_is_never_gathered():
    def body(domain):
        q, k, v = (graticule.shard(t, domain).requires_grad_() for t in qkv(1, 1, 512, 4))
        with graticule.report() as report:
            by_hand(q, k, v).square().sum().backward()
        return report

    for report in run_ranks(2, body):
        assert not report.gathers, str(report)
        assert report.bytes < 512 * 512 * 8 / 4, str(report)


def test_windows_of_an_image():
    def function(x, bias):
        b, h, w, c = x.shape
        windows = x.reshape(b, h // 2, 2, w // 3, 3, c).transpose(2, 3).reshape(-1, 6, 2, c // 2).transpose(1, 2)
        y = attention(windows, windows * 0.5, windows.sin(), bias)
        y = y.transpose(1, 2).reshape(b, h // 2, w // 3, 2, 3, c).transpose(2, 3)
        return y.reshape(b, h, w, c)

    compare(function, Cut(randn(2, 12, 6, 4), 1), randn(2, 6, 6), ranks=(1, 2, 3))


def test_all_tokens_of_an_image():
    def function(x, w):
        b, c, h, _ = x.shape
        q, k, v = F.linear(x.flatten(2).transpose(1, 2), w).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, c // 2)).transpose(1, 2) for t in (q, k, v))
        y = attention(q, k, v)
        return y.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (h, -1))

    compare(function, Cut(randn(2, 4, 7, 3), 2), randn(12, 4), ranks=(1, 2, 3))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(batch_first, need_weights):
    serial = nn.MultiheadAttention(8, 2, batch_first=batch_first).double()
    names = [name for name, _ in serial.named_parameters()]
    parameters = [p.detach() for p in serial.parameters()]

    def function(x, mask, *own):
        module = copy.deepcopy(serial)
        swapped = dict(zip(names, own, strict=True))
        out, weights = torch.func.functional_call(
            module, swapped, (x, x * 0.5, x.cos()), {"need_weights": need_weights, "attn_mask": mask}
        )
        return (out, weights) if need_weights else out

    x = randn(2, 7, 8) if batch_first else randn(7, 2, 8)
    for dim in (0, 1):
        compare(function, Cut(x, dim), randn(7, 7), *parameters, ranks=(1, 2, 3))


def test_transformer_layers():
    serial = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True).double()
    names = [name for name, _ in serial.named_parameters()]

    def function(x, *own):
        return torch.func.functional_call(copy.deepcopy(serial), dict(zip(names, own, strict=True)), (x,))

    compare(function, Cut(randn(2, 7, 8), 1), *(p.detach() for p in serial.parameters()), ranks=(2, 3))
    serial.eval()
    with torch.no_grad():
        compare(
            function, Cut(randn(2, 7, 8), 1), *(p.detach() for p in serial.parameters()), ranks=(2,), gradients=False
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types(dtype):
    q, k, v = (t.to(dtype) for t in qkv(1, 1, 40, 8))
    expected = attention(q.double(), k.double(), v.double())

    def body(domain):
        own = [graticule.shard(t, domain).requires_grad_() for t in (q, k, v)]
        y = attention(*own)
        y.sum().backward()
        assert y.dtype == own[0].grad.dtype == dtype
        return y.gather().detach()

    for result in run_ranks(2, body):
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=10 * torch.finfo(dtype).eps)


def test_half_types_with_a_bias():
    q, k, v = (t.bfloat16() for t in qkv(1, 1, 7, 8))
    bias = randn(7, 7).bfloat16()
    expected = attention(q.double(), k.double(), v.double(), bias.double())

    def body(domain):
        cuts = [(q, graticule.shard(k, domain), v), [graticule.shard(t, domain) for t in (q, k, v)]]
        return [y.gather() if isinstance(y, DomainTensor) else y for y in (attention(*own, bias) for own in cuts)]

    for size in (1, 3):
        for results in run_ranks(size, body):
            for result in results:
                torch.testing.assert_close(result.double(), expected, rtol=0, atol=0.05)


def test_the_result_is_cut_like_the_queries():
    def body(domain):
        q = graticule.from_local(randn(2, 4, 1 + 4 * domain.rank, 8), domain, dim=2)
        y = attention(q, q, q)
        assert isinstance(y, DomainTensor) and y.cut_dim == 2
        assert y.offsets == (0, 1, 6, 15)

    run_ranks(3, body)


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([(0, 0, 0), (1, 1, 1), (2, 2, 2), (None, 2, 2), (2, None, None), (1, 2, 0)]),
    st.sampled_from([None, "rows", "heads", "causal"]),
    st.integers(1, 4),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_sizes(batch, heads, queries, keys, dims, extra, ranks):
    values = cut([randn(batch, heads, queries, 4), *(randn(batch, heads, keys, 4) for _ in range(2))], *dims)
    if extra == "causal":
        compare(lambda q, k, v: attention(q, k, v, is_causal=True), *values, ranks=(ranks,))
    elif extra is None:
        compare(attention, *values, ranks=(ranks,))
    else:
        compare(attention, *values, randn(queries, keys) if extra == "rows" else randn(heads, 1, keys), ranks=(ranks,))


@pytest.mark.parametrize("tokens", [3, 13])
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_layouts_of_output_and_gradient(tokens, dim):
    """Features that lie apart in memory: of queries, so of the output where a rank has one row, and of its gradient."""
    q, k, v = (torch.randn(4, 4, n, 8, dtype=torch.float64) for n in (tokens, 6, 6))

    def transposed(x, k, v):
        return F.scaled_dot_product_attention(x.transpose(dim, 0), k, v) * 1.5

    def with_transposed_gradient(q, k, v):
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).contiguous() * 1.5

    compare(transposed, Cut(q.transpose(dim, 0).contiguous(), 0), k, v, ranks=(2, 3), gathers=True)
    compare(with_transposed_gradient, Cut(q, dim), k, v, ranks=(2, 3), gathers=True)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("tokens", [2, 7])
@pytest.mark.parametrize("causal", [False, True])
def test_a_view_by_tokens(heads, tokens, causal):
    """What torch's kernel for attention lays out so: no contiguous() in between."""

    def function(x, w):
        b, t, c = x.shape
        q, k, v = F.linear(x, w).view(b, t, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return o.transpose(1, 2).view(b, t, c)

    compare(function, Cut(randn(3, tokens, 6), 1), randn(18, 6), ranks=(1, 2, 3, 4))


@pytest.mark.parametrize("heads", [1, 3])
def test_a_view_by_tokens_of_plain_queries(heads):
    def function(q, x):
        k = x.view(3, 5, heads, 2).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, k * 2).transpose(1, 2).view(3, 4, 2 * heads)

    compare(function, randn(3, 4, heads, 2).transpose(1, 2), Cut(randn(3, 5, 2 * heads), 1), ranks=(2, 3))
