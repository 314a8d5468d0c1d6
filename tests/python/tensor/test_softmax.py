"""Softmax and its kin along the cut dimension and across it."""

import pytest
import torch
from torch.nn import functional as F

from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 5, dtype=torch.float64)


@pytest.mark.parametrize("dim", [-2, 0])
def test_along_any_dimension(dim):
    def function(x):
        return [f(x, d) for d in range(4) for f in (F.softmax, F.log_softmax, F.softmin)]

    compare(function, Cut(X, dim))


def test_large_values_stay_finite():
    compare(lambda x: [(400 * x).softmax(2), (400 * x).log_softmax(2)], Cut(X))


def test_masked_rows():
    masked = X.masked_fill(X > 0.5, -torch.inf)
    masked[:, :, :4] = -torch.inf
    compare(lambda x: [x.softmax(2), x.log_softmax(3), x.softmax(3).nan_to_num()], Cut(masked), gradients=False)
    undefined = masked.clone()
    undefined[0, 0, :, 0] = -torch.inf
    undefined[1, 0, 2, 1] = torch.nan
    compare(lambda x: [x.softmax(2), x.log_softmax(2)], Cut(undefined), gradients=False)
    compare(lambda x: torch.ops.aten._safe_softmax(x, 2), Cut(undefined), gradients=False)
    compare(lambda x: torch.ops.aten._safe_softmax(x, 2, torch.float32).double(), Cut(X), bound=1e-6)


def test_in_another_dtype():
    compare(
        lambda x: [x.softmax(2, dtype=torch.float32).double(), x.bfloat16().log_softmax(2).double()], Cut(X), bound=2e-2
    )


def test_plain_gradient_of_a_cut_result():
    compare(lambda x: x.softmax(2).sum() + x.log_softmax(2).mean() + x.log_softmax(3).sum(), Cut(X))


def test_twice():
    compare(lambda x: x.softmax(2).log_softmax(1).exp().softmax(3), Cut(X))
