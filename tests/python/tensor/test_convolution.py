"""Convolutions of cut tensors: every option, every cut, gradients of input, weight and bias, and their gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import graticule
from support.ranks import balanced, run_ranks
from tensor.comparison import Cut, compare, uneven

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def values(*shape):
    return torch.randn(shape, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=["automatic", "in_place", "whole_windows"])
def path(request):
    torch.ops.graticule.force_convolution_path(request.param)
    yield request.param
    torch.ops.graticule.force_convolution_path("automatic")


def all_options():
    """Kernel, stride, padding, dilation, groups."""
    for k, s, p, d in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2, 4), (1, 2)):
        yield k, s, p, d, 1
    yield from [(3, 1, 1, 1, 2), (3, 2, 1, 1, 4), (2, 2, 0, 1, 4), (7, 4, 3, 1, 2)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_options(ranks):
    x = values(2, 4, 11, 3)
    cases = [case for case in all_options() if (case[0] - 1) * case[3] < 11 + 2 * case[2]]
    weights = {(k, g): values(4, 4 // g, k, 2) for k, _, _, _, g in cases}

    def function(x, bias, *given):
        of = dict(zip(weights, given, strict=True))
        return [F.conv2d(x, of[k, g], bias if s == 1 else None, (s, 1), (p, 1), (d, 1), g) for k, s, p, d, g in cases]

    compare(function, Cut(x), values(4), *weights.values(), ranks=(ranks,))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_transposed_options(ranks):
    x = values(1, 4, 7, 3)
    cases = [
        (k, s, p, d, o, 1)
        for k, s, p, d, o in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2), (1, 2), (0, 1))
        if o < max(s, d) and 6 * s - 2 * p + d * (k - 1) + o >= 0
    ] + [(4, 2, 1, 1, 0, 2), (2, 2, 0, 1, 1, 4)]
    weights = {(k, g): values(4, 4 // g, k, 2) for k, _, _, _, _, g in cases}

    def function(x, bias, *given):
        of = dict(zip(weights, given, strict=True))
        return [
            F.conv_transpose2d(x, of[k, g], bias if s == 1 else None, (s, 1), (p, 0), (o, 0), g, (d, 1))
            for k, s, p, d, o, g in cases
        ]

    compare(function, Cut(x), values(4), *weights.values(), ranks=(ranks,))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_dimension_of_every_number(n):
    sizes = (9, 7, 6)[:n]
    x, w, b = values(3, 4, *sizes), values(4, 2, *(3, 2, 3)[:n]), values(4)
    for dim in range(n + 2):

        def function(x, w, b):
            options = {"stride": 2, "padding": 1, "groups": 2}
            return CONVOLUTIONS[n](x, w, b, **options), TRANSPOSED[n](x, w, b, **options)

        compare(function, Cut(x, dim), w, b, ranks=(2, 4))


def test_by_every_path(path):
    x, w, b = values(2, 3, 17, 4), values(4, 3, 5, 3), values(4)

    def function(x, w, b):
        y = F.conv2d(x, w, b, padding=(2, 1))
        return F.conv2d(y, w[:, :, :3].transpose(0, 1), stride=(2, 1)), F.conv_transpose2d(y, w, stride=2)

    compare(function, Cut(x), w, b)


def test_where_ranks_take_different_paths():
    x, w = values(1, 2, 150, 8), values(2, 2, 3, 3)

    def few(rows, ranks):
        return [0, 2, rows - 5, rows - 4, rows][:ranks] + [rows]

    def function(x, w):
        return F.conv2d(x, w, padding=1), F.conv2d(x, w, stride=2), F.conv_transpose2d(x, w, stride=2, padding=1)

    compare(function, Cut(x), w, ranks=(2, 3, 4), cuts=(uneven, few))


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_with_what_is_frozen(frozen):
    x, w, b = values(2, 3, 8, 4), values(4, 3, 3, 3), values(4)

    def function(*given):
        y = F.conv2d(*(t.detach() if i in frozen else t for i, t in enumerate(given)), padding=1)
        return y + 0 * sum(t.sum() for i, t in enumerate(given) if i in frozen)

    compare(function, Cut(x), w, b, ranks=(3,))


def test_unbatched_and_same():
    x, w = values(3, 9, 4), values(4, 3, 3, 3)
    compare(lambda x, w: F.conv2d(x, w, padding="same", dilation=(2, 1)), Cut(x), w)
    compare(lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1), stride=2), Cut(x), w)
    compare(lambda x, w: F.conv2d(x, w, padding="valid"), Cut(x), w)


@pytest.mark.parametrize("dim", [-2, -1])
def test_one_value_for_all_dimensions(dim):
    x, w = values(2, 4, 11, 9), values(4, 4, 3, 3)
    for options in ({"padding": "valid"}, {"padding": [1]}, {"stride": [2]}, {"dilation": (2,), "padding": (1,)}):
        compare(lambda x, w, options=options: F.conv2d(x, w, **options), Cut(x, dim), w)
    compare(lambda x, w: F.conv_transpose2d(x, w, stride=[2], output_padding=[1]), Cut(x, dim), w)
    compare(lambda x, w: F.conv3d(x[None], w[:, :, None], padding="valid"), Cut(values(4, 2, 9, 7), dim), w)


def test_too_few_options_for_the_op_are_an_error():
    def body(domain):
        x = values(1, 3, 4, 5)
        with pytest.raises(ValueError, match="options of 2 values"):
            offsets = [0, 4, 8]
            torch.ops.graticule.convolution(
                x, values(4, 3, 3, 3), None, [1, 1], [0], [1, 1], False, [0, 0], 1, offsets, [0, 3, 6], 2,
                domain.group_name, "layer",
            )  # fmt: skip

    run_ranks(2, body)


def test_same_that_pads_unequally():
    compare(lambda x, w: F.conv2d(x, w, padding="same"), Cut(values(2, 3, 9, 5)), values(4, 3, 4, 2))


def test_second_derivatives():
    x, w, b = values(2, 4, 9, 5), values(4, 4, 3, 3), values(4)
    for convolve in (F.conv2d, F.conv_transpose2d):

        def function(x, w, b, convolve=convolve):
            y = convolve(x, w, b, stride=(2, 1), padding=1)
            return torch.autograd.grad(y.sin().sum(), (x, w, b), create_graph=True)

        compare(function, Cut(x), w, b, gathers=True)


def test_a_weight_that_is_cut():
    x, w = values(2, 3, 8, 5), values(4, 3, 3, 3)
    compare(lambda x, w: F.conv2d(x, w), Cut(x), Cut(w), gathers=True, ranks=(2,))
    compare(lambda x, w: F.conv2d(x, w), x, Cut(w), gathers=True, ranks=(2,))


def test_no_bits_are_lost_in_float32_and_bfloat16():
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        x, w, b = (t.to(dtype) for t in (values(2, 3, 33, 16), values(4, 3, 3, 3), values(4)))
        compare(lambda x, w, b: F.conv2d(x, w, b, 2, 1), Cut(x), w, b, bound=bound)
        x = x.to(memory_format=torch.channels_last)
        compare(lambda x, w, b: F.conv2d(x, w, b, 2, 1), Cut(x), w, b, bound=bound, ranks=(2,))


def test_under_autocast():
    x, w, b = (t.float() for t in (values(2, 3, 33, 16), values(4, 3, 3, 3), values(4)))

    def function(x, w, b):
        with torch.autocast("cpu", torch.bfloat16):
            return F.conv2d(x, w, b, 2, 1), F.conv_transpose2d(x, w.transpose(0, 1), None, 2)

    compare(function, Cut(x), w, b, bound=3e-2, ranks=(1, 3))


def test_errors_are_those_of_the_uncut_call():
    def body(domain):
        x = graticule.shard(values(1, 3, 6, 4), domain)
        for weight in (values(4, 2, 3, 3), values(4, 3, 9, 3), values(4, 3, 3, 3).float()):
            with pytest.raises(RuntimeError):
                F.conv2d(x, weight)

    run_ranks(3, body)


def test_rows_of_the_result():
    def body(domain):
        x = graticule.from_local(values(1, 1, 9, 4).split([1, 8], 2)[domain.rank], domain)
        w = values(1, 1, 3, 3)
        assert F.conv2d(x, w, padding=1).offsets == (0, 1, 9)
        assert F.conv2d(x, w, stride=2).offsets == tuple(balanced(4, 2))

    run_ranks(2, body)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_any_options(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    rows, k, s, p, d = draw(1, 24), draw(1, 6), draw(1, 4), draw(0, 5), draw(1, 3)
    groups = draw(1, 2)
    x, w = values(2, 4, rows, 3), values(4, 4 // groups, k, 2)
    if rows + 2 * p >= d * (k - 1) + 1:
        compare(lambda x, w: F.conv2d(x, w, None, (s, 1), (p, 1), (d, 1), groups), Cut(x), w, ranks=(draw(2, 4),))
    if (rows - 1) * s - 2 * p + d * (k - 1) >= 0:
        compare(
            lambda x, w: F.conv_transpose2d(x, w, None, (s, 1), (p, 1), 0, groups, (d, 1)),
            Cut(x),
            w,
            ranks=(draw(2, 4),),
            cuts=(uneven,),
        )


def test_a_weight_of_as_many_rows_as_the_grid():
    """Of an empty batch the op runs uncut; its result is not to be taken for rows."""
    compare(
        lambda x, w: F.conv2d(x, w, padding=1),
        Cut(torch.zeros(0, 2, 3, 5, dtype=torch.float64)),
        torch.randn(4, 2, 3, 3, dtype=torch.float64),
        gathers=True,
    )
