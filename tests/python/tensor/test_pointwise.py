"""Pointwise ops: unary, broadcasting against replicated values, and between tensors that are cut differently."""

import pytest
import torch

import graticule
from graticule import Domain, DomainTensor
from support.ranks import balanced, failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 5, dtype=torch.float64)
Y = torch.randn(2, 3, 7, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    "function",
    [torch.sin, torch.relu, torch.nn.functional.gelu, torch.nn.functional.silu, lambda x: x.abs() ** 1.5, torch.exp],
)
def test_one_argument(function):
    compare(function, Cut(X))


@pytest.mark.parametrize("shape", [(7, 1), (5,), (1, 3, 1, 1), (2, 3, 7, 5), (), (1, 1, 7, 1), (3, 1, 1)])
def test_against_replicated(shape):
    compare(
        lambda x, w: x * w + torch.where(x > w, x, w.sin()),
        Cut(X),
        torch.randn(shape, dtype=torch.float64),
        gathers=True,
    )


def test_cut_along_different_dimensions():
    compare(lambda x, y: x * y - y / (2 + x.abs()), Cut(X, 2), Cut(Y, 3))
    compare(lambda x, y: x * y, Cut(X, 0), Cut(Y, 1))


def test_broadcast_of_one_row():
    compare(lambda x, y: x * y, Cut(X), Cut(torch.randn(2, 3, 1, 5, dtype=torch.float64)), gathers=True)


@pytest.mark.parametrize("rows", [8, 7], ids=["even", "uneven"])
@pytest.mark.parametrize(
    "function",
    [
        torch.add,
        lambda x, y: y * x,
        lambda x, y: x + y[..., :1],
        lambda x, y: x + y[0, 0],
        lambda x, y: x.add_(y),
        lambda x, y: x.copy_(y),
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: x.masked_fill(y > 0, 0),
        lambda x, y: torch.lerp(x, y, 0.5),
        lambda x, y: torch.addcmul(x, y, y),
        lambda x, y: x + graticule.shard(y, x.domain),
        lambda x, y: x + x.local,
    ],
)
def test_rows_of_this_rank_alone_are_refused_on_every_rank(function, rows):
    x, y = torch.randn(2, 3, rows, 5), torch.randn(2, 3, 4, 5)
    errors = failures(2, lambda domain: function(graticule.shard(x, domain), y))
    assert sorted(errors) == [0, 1]
    for rank, error in errors.items():
        assert f"rank {rank} of 2: expected a tensor with {rows} rows or one" in str(error), error


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.local,
        lambda x: torch.addcmul(x, x, x.local),
        lambda x: torch.where(x > 0, x, other=x.local),
        lambda x: torch.einsum("nchw,nchw->", x, x.local),
    ],
    ids=["product", "product added", "keyword", "sum of products"],
)
def test_a_shard_of_one_row_is_no_replicated_row(function):
    """It would broadcast: the output right, the gradient of every rank's own row the sum over the ranks."""
    x = torch.randn(2, 3, 3, 5)
    errors = failures(3, lambda domain: function(graticule.shard(x, domain).requires_grad_()))
    assert sorted(errors) == [0, 1, 2]
    for rank, error in errors.items():
        assert f"rank {rank} of 3: expected a tensor that every rank has alike, got .local" in str(error), error


def test_own_rows_are_differentiated_beside_the_whole():
    def body(domain):
        x = graticule.shard(X, domain).requires_grad_()
        y = x.square()
        (gradient,) = torch.autograd.grad(y.local, x, torch.ones_like(y.local))
        alone = graticule.shard(X, Domain.threads(f"one{domain.rank}", 0, 1)).requires_grad_()
        (alone * alone.local).sum().backward()
        return gradient.gather(), alone.grad.gather()

    for result in run_ranks(2, body):
        assert all(torch.equal(gradient, 2 * X) for gradient in result)


def test_writes_into_own_memory():
    def function(x, y):
        z = x * 1
        z.mul_(y).add_(1)
        z += y
        return z

    compare(function, Cut(X), Cut(Y))


def test_shows_shape_and_rows():
    def body(domain):
        x = graticule.shard(X, domain)
        assert isinstance(x, DomainTensor)
        assert x.shape == X.shape
        assert x.offsets == tuple(balanced(7, domain.size))
        return repr(x)

    shown = run_ranks(2, body)
    assert "shape=[2, 3, 7, 5]" in shown[0]
    assert "rank 1 of 2 has rows [3, 7)" in shown[1]


def test_two_domains_do_not_mix():
    """Crossing groups have shards of one shape, and other rows."""

    def body(domain):
        row, column = domain.rank // 2, domain.rank % 2
        rows = Domain.threads(f"rows{row}", column, 2)
        columns = Domain.threads(f"columns{column}", row, 2)
        return graticule.shard(X, rows, 2) - graticule.shard(X, columns, 2)

    errors = failures(4, body)
    assert sorted(errors) == [0, 1, 2, 3]
    assert all("expected DomainTensors of one domain" in str(error) for error in errors.values())


def test_beside_a_view_of_itself_with_one_dimension_more():
    """They share a cut, and rows that stand in different dimensions."""
    d, square = X[0, 0, :, 0].contiguous(), torch.randn(6, 6, dtype=torch.float64)
    compare(lambda d: [d[:, None] - d, d - d[:, None], torch.where(d[:, None] > d, d[:, None], d)], Cut(d, 0))
    compare(lambda x: x[:, None] - x, Cut(X[0, 0].contiguous(), 0))
    compare(lambda x: [x - x.mean(1), (x * 1).add_(x.sum(1))], Cut(square, 0))
    labels = torch.randint(0, 3, (8,))
    compare(lambda n: n[:, None] == n, Cut(labels, 0))


def test_results_into_tensors_that_are_not_called_out():
    g, y = X.sin(), X.sigmoid()

    def body(domain):
        mantissa, exponent = torch.zeros_like(X), torch.zeros(X.shape, dtype=torch.int32)
        torch.frexp(graticule.shard(X, domain), out=(mantissa, exponent))
        gradient = torch.zeros_like(X)
        cut = graticule.shard(g, domain)
        torch.ops.aten.sigmoid_backward.grad_input(cut, graticule.shard(y, domain), grad_input=gradient)
        assert torch.equal(cut.gather(), g)
        return mantissa, exponent, gradient

    expected = (*torch.frexp(X), torch.ops.aten.sigmoid_backward.default(g, y))
    for found in run_ranks(3, body):
        assert all(map(torch.equal, found, expected))


def test_a_parameter_that_is_brought_to_another_tensors_type_keeps_a_plain_gradient():
    def function(x, w):
        moved = (w * 1).to(x)
        moved += 1
        return [x + w.to(x), x * w.type_as(x), x * moved]

    x = torch.randn(1, 4, 8, 6, dtype=torch.float64)
    compare(function, Cut(x), torch.randn(1, 4, 8, 6, dtype=torch.float64), ranks=(2, 3))
