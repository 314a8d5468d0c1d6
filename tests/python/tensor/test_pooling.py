"""Pooling of cut tensors: values, indices of the whole tensor, gradients, in every option."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tensor.comparison import Cut, compare, uneven


def values(*shape):
    return torch.randn(shape, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(sum(shape)))


def ties(*shape):
    return values(*shape).mul(2).round()


MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
ADAPTIVE_AVG = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def sliding_options():
    """Kernel, stride, padding, dilation, ceil_mode."""
    for k, s, p, d, ceil in itertools.product((1, 2, 3, 5), (1, 2, 6), (0, 1, 2), (1, 2), (False, True)):
        if p <= k // 2 and (d == 1 or not ceil) and d * (k - 1) + 1 <= 11 + 2 * p:
            yield k, s, p, d, ceil


@pytest.mark.parametrize("ranks", [2, 3])
def test_max_pool_options(ranks):
    cases = list(sliding_options())

    def function(x):
        return [
            F.max_pool2d(x, (k, 2), (s, 1), (p, 1), (d, 1), ceil_mode=ceil, return_indices=True)
            for k, s, p, d, ceil in cases
        ]

    compare(function, Cut(ties(2, 2, 11, 4)), ranks=(ranks,))


@pytest.mark.parametrize("ranks", [2, 3])
def test_avg_pool_options(ranks):
    cases = [(k, s, p, ceil) for k, s, p, d, ceil in sliding_options() if d == 1]

    def function(x):
        return [
            F.avg_pool2d(x, (k, 2), (s, 1), (p, 1), ceil, counts, divisor)
            for k, s, p, ceil in cases
            for counts, divisor in ((True, None), (False, None), (True, 7))
        ]

    compare(function, Cut(values(2, 2, 11, 4)), ranks=(ranks,))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_dimension_of_every_number(n):
    x = ties(3, 4, *(9, 7, 6)[:n])
    for dim in range(n + 2):

        def function(x):
            return (
                MAX[n](x, 3, 2, 1, 1, True, True),
                AVG[n](x, 3, 2, 1, True, False),
                ADAPTIVE_MAX[n](x, 4, True),
                ADAPTIVE_AVG[n](x, 5),
                F.lp_pool1d(x, 2, 3) if n == 1 else F.lp_pool2d(x, 2, 3) if n == 2 else F.lp_pool3d(x, 2, 3),
            )

        compare(function, Cut(x, dim), ranks=(2, 4))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_single_value_of_other_layouts(dim):
    """Uncut, its strides are set in place."""
    image = values(3, 5, 6, 4).to(memory_format=torch.channels_last)
    compare(lambda x: F.adaptive_avg_pool2d(x, 1) * 2, Cut(image, dim), ranks=(2, 3))
    compare(lambda x: F.adaptive_avg_pool1d(x, 1) * 2, Cut(values(3, 6, 5).transpose(1, 2), dim), ranks=(2, 3))


def test_unbatched():
    compare(
        lambda x: (F.max_pool2d(x, 3, 2, 1, return_indices=True), F.avg_pool2d(x, 2), F.adaptive_avg_pool2d(x, (3, 2))),
        Cut(ties(3, 9, 5)),
    )


def test_what_is_no_number():
    x = ties(1, 2, 12, 5)
    x[0, 0, :7] = -torch.inf
    x[0, 1, 2:5, 1] = torch.nan
    x[0, 1, 8, :] = torch.nan

    def function(x):
        return (
            F.max_pool2d(x, 3, 1, 1, return_indices=True),
            F.max_pool2d(x, 3, 2, 1, 2, return_indices=True),
            F.adaptive_max_pool2d(x, (5, 3), return_indices=True),
        )

    compare(function, Cut(x), gradients=False)
    compare(lambda x: F.max_pool2d(x, 3, 2, 1), Cut(x))


@pytest.mark.parametrize("rows", [1, 2, 5, 11])
def test_adaptive_sizes(rows):
    def function(x):
        results = []
        for size in (1, 2, 3, 4, 5, 7, 11, 13, 25):
            results += [F.adaptive_avg_pool2d(x, (size, 3)), F.adaptive_avg_pool2d(x, (size, None))]
            results += F.adaptive_max_pool2d(x, (size, 3), return_indices=True)
        return results

    compare(function, Cut(ties(2, 2, rows, 4)), ranks=(2, 3))


def test_to_one_value():
    compare(lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)), Cut(values(2, 3, 9, 5)))
    compare(lambda x: F.adaptive_avg_pool3d(x, 1), Cut(values(2, 3, 9, 5, 2), 3))
    compare(lambda x: F.adaptive_avg_pool1d(x, 1), Cut(values(2, 3, 9), 2))
    # Its gradient is that of a plain value, used as one.
    compare(lambda x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(), Cut(values(2, 3, 9, 5)))


def test_second_derivatives():
    x = values(2, 3, 9, 5)
    for pool in (
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.adaptive_avg_pool2d(x, (4, 2)),
    ):

        def function(x, pool=pool):
            return torch.autograd.grad(pool(x).pow(3).sum(), x, create_graph=True)

        compare(function, Cut(x), gathers=True)


def test_those_that_gather():
    x = values(2, 3, 8, 6)
    samples = torch.rand(2, 3, 2, dtype=torch.float64)

    def function(x):
        y, at = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, at, 2), F.fractional_max_pool2d(x, 2, (4, 3), _random_samples=samples)

    compare(function, Cut(x), gathers=True)


def test_no_samples():
    x = torch.zeros(0, 3, 8, 6, dtype=torch.float64)
    compare(lambda x: (F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2)), Cut(x), gathers=True, ranks=(2,))


def test_other_types():
    x = values(2, 3, 17, 8)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):

        def function(x):
            return F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, (4, 3))

        compare(function, Cut(x.to(dtype)), bound=bound, ranks=(3,))
        last = x.to(dtype).contiguous(memory_format=torch.channels_last)
        compare(function, Cut(last), bound=bound, ranks=(3,))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_any_options(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    rows, k, s, d, ceil = draw(1, 24), draw(1, 6), draw(1, 7), draw(1, 3), data.draw(st.booleans())
    counts = data.draw(st.booleans())
    p = draw(0, k // 2)
    size = draw(1, 30)
    fits = d * (k - 1) + 1 <= rows + 2 * p and k <= rows + 2 * p

    n = draw(2, 3)
    at = draw(0, n - 1)

    def along(value, other):
        return tuple(value if i == at else other for i in range(n))

    def function(x):
        to = along(size, 2)
        results = [ADAPTIVE_AVG[n](x, to), *ADAPTIVE_MAX[n](x, to, return_indices=True)]
        if fits:
            options = (along(k, 1), along(s, 1), along(p, 0))
            results += MAX[n](x, *options, along(d, 1), ceil, return_indices=True)
            if k <= rows:
                results.append(AVG[n](x, *options, ceil, counts))
        return results

    x = Cut(ties(1, 2, *along(rows, 3)), at + 2)
    compare(function, x, ranks=(draw(2, 4),))
    compare(function, x, ranks=(draw(2, 4),), cuts=(uneven,))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_mean_of_channels_that_come_last(dim):
    """As a residual network's head takes it."""
    x = torch.randn(4, 3, 6, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    compare(lambda x: F.adaptive_avg_pool2d(x, 1), Cut(x, dim))
    compare(torch.nn.AdaptiveAvgPool2d((1, 1)), Cut(x, dim))
    y = x.unsqueeze(-1).contiguous(memory_format=torch.channels_last_3d)
    compare(torch.nn.AdaptiveAvgPool3d(1), Cut(y, dim))
