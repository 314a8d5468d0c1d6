"""Cumulative ops along the cut dimension and across it."""

import pytest
import torch

from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 5, dtype=torch.float64)
TIED = (torch.randint(-2, 3, (2, 3, 7, 5)) / 2).double()


@pytest.mark.parametrize("dim", [-2, 0])
def test_values_along_any_dimension(dim):
    def function(x):
        return [f(d) for d in range(4) for f in (x.cumsum, x.cumprod, x.logcumsumexp)]

    compare(function, Cut(X, dim), gradients=False)
    compare(
        lambda x: [r for d in range(4) for f in (x.cummax, x.cummin) for r in f(d)], Cut(TIED, dim), gradients=False
    )


def test_gradients():
    compare(lambda x: [x.cumsum(2), x.cumsum(3), x.cumprod(1), x.logcumsumexp(3)], Cut(X))
    compare(lambda x: [x.logcumsumexp(2), x.cummin(3)[0]], Cut(X))
    compare(lambda x: [x.cumprod(2), x.cummax(2)[0]], Cut(X), gathers=True)


def test_what_is_no_number():
    holes = torch.where(torch.rand_like(X) < 0.2, torch.nan, X)
    compare(lambda x: [*x.cummax(2), *x.cummin(2), x.cumsum(2), x.logcumsumexp(2)], Cut(holes), gradients=False)
    infinite = X.masked_fill(X > 0.5, -torch.inf)
    infinite[:, :, :3] = -torch.inf
    compare(lambda x: [x.logcumsumexp(2), *x.cummax(2), *x.cummin(2)], Cut(infinite), gradients=False)


def test_other_dtypes():
    integers = torch.randint(-3, 4, (2, 3, 7, 5))
    compare(
        lambda x: [
            x.cumsum(2),
            x.cumprod(2),
            x.cumsum(2, dtype=torch.int32),
            x.cumsum(2, dtype=torch.float64),
            x.int().cumsum(2),
            *x.cummax(2),
            (x > 0).cumsum(2),
        ],
        Cut(integers),
    )
    compare(lambda x: x.bfloat16().cumsum(2).double(), Cut(X), bound=2e-2)
    compare(lambda x: torch.complex(x, -x).cumsum(2).abs(), Cut(X), gradients=False)


def test_trapezoids():
    compare(lambda x: [torch.trapezoid(x, dim=2), torch.cumulative_trapezoid(x, dim=2)], Cut(X))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_merged_dimensions(dim):
    """Of which a rank has several intervals: no matrix of all pairs is made."""
    compare(lambda x: [x.flatten().cumsum(0), x.flatten(1).cumsum(1), x.flatten(0, 2).logcumsumexp(0)], Cut(X, dim))
    compare(lambda x: [*x.flatten(0, 2).cummax(0), x.flatten(1).cumprod(1)], Cut(TIED, dim), gradients=False)
