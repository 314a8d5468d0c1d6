"""Where values stand in a list, and whether they are in it."""

import pytest
import torch

from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randint(-4, 5, (2, 7, 3)).double()
BOUNDARIES = torch.tensor([-2.5, -1.0, 0.0, 0.5, 3.0], dtype=torch.float64)
NONE = torch.empty(0, dtype=torch.float64)
# PyTorch's own decomposition of isin loses values behind many that are no numbers.
NANS = torch.cat(
    [torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), torch.full((40,), torch.nan, dtype=torch.float64)]
)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("boundaries", [BOUNDARIES, NONE], ids=["some", "none"])
def test_bucketize(boundaries, dim):
    for options in ({}, {"right": True}, {"out_int32": True}):
        compare(
            lambda x, b, options=options: torch.bucketize(x, b, **options), Cut(X, dim), boundaries, gradients=False
        )
    compare(torch.bucketize, X, Cut(BOUNDARIES, 0), gradients=False)
    compare(torch.bucketize, Cut(X, dim), Cut(BOUNDARIES, 0), gradients=False)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("values", [BOUNDARIES, NONE, NANS], ids=["some", "none", "not numbers"])
def test_isin(values, dim):
    for options in ({}, {"invert": True}):
        compare(lambda x, v, options=options: torch.isin(x, v, **options), Cut(X, dim), values, gradients=False)
    compare(torch.isin, X, Cut(values, 0), gradients=False)
