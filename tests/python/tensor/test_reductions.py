"""Reductions over the cut dimension and across it: values, indices and gradients as without a cut."""

import pytest
import torch

import graticule
from graticule import DomainTensor
from support.ranks import run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 5, dtype=torch.float64)
# Ties, zeros, and values of both signs.
TIED = (torch.randint(-2, 3, (2, 3, 7, 5)) / 2).double()
HOLES = torch.where(torch.rand_like(X) < 0.2, torch.nan, X)
BOOLS = X > 0.5
INTEGERS = torch.randint(-3, 4, (2, 3, 7, 5))
DIMS = [None, 2, 1, (2, 3), (0, 3), (0, 1, 2, 3), -1, (-2,)]


def over_dims(call, dims=DIMS, keepdims=(False, True)):
    """A function that reduces in all these ways."""

    def function(x):
        return [call(x, dim, keepdim) for dim in dims for keepdim in keepdims]

    return function


@pytest.mark.parametrize(
    "call",
    [
        lambda x, dim, keepdim: x.sum(dim, keepdim),
        lambda x, dim, keepdim: x.mean(dim, keepdim),
        lambda x, dim, keepdim: torch.nansum(x, dim, keepdim),
        lambda x, dim, keepdim: x.var(dim, keepdim=keepdim),
        lambda x, dim, keepdim: x.std(dim, correction=0, keepdim=keepdim),
        lambda x, dim, keepdim: torch.var_mean(x, dim, correction=2, keepdim=keepdim),
        lambda x, dim, keepdim: torch.std_mean(x, dim, keepdim=keepdim),
    ],
)
def test_sums_and_moments(call):
    compare(over_dims(call), Cut(X))


def test_sums_of_everything():
    compare(lambda x: [x.sum(), x.mean(), x.nansum(), x.var(), x.std(correction=0), x.prod()], Cut(X))
    compare(lambda x: [x.nansum(), x.nansum(2), x.nanmean(), x.nanmean((2, 3))], Cut(HOLES))


def test_sums_in_another_dtype():
    compare(
        lambda x: [
            x.sum(dtype=torch.float32).double(),
            x.mean(2, dtype=torch.float32).double(),
            x.to(torch.bfloat16).sum(2).double(),
            x.half().mean((2, 3)).double(),
        ],
        Cut(X),
        bound=1e-2,
    )
    compare(
        lambda x: [x.sum(), x.sum(2), x.sum(dtype=torch.int32), x.sum(2, dtype=torch.float64), x.nansum(2), x.prod(2)],
        Cut(INTEGERS),
    )
    compare(lambda x: [x.sum(), x.sum(2), x.sum(3), x.double().mean(2)], Cut(BOOLS))


def test_products():
    compare(
        lambda x: [x.prod(2), x.prod(2, keepdim=True), x.prod(3), x.prod(2, dtype=torch.float64)], Cut(X), gathers=True
    )
    compare(lambda x: [x.prod(2), x.prod(3)], Cut(TIED))


@pytest.mark.parametrize("name", ["amax", "amin"])
def test_extremes_share_their_gradient(name):
    def call(x, dim, keepdim):
        return getattr(x, name)(() if dim is None else dim, keepdim)

    compare(over_dims(call), Cut(TIED))
    compare(over_dims(call, dims=[2, (2, 3), 3]), Cut(HOLES))
    compare(over_dims(call), Cut(INTEGERS))
    compare(over_dims(call), Cut(BOOLS))


def test_extremes_of_everything():
    def function(x):
        low, high = torch.aminmax(x)
        return [x.max(), x.min(), low, high, *torch.aminmax(x, dim=2), *torch.aminmax(x, dim=3, keepdim=True)]

    compare(function, Cut(TIED))
    compare(function, Cut(HOLES))
    compare(function, Cut(INTEGERS))


@pytest.mark.parametrize("values", [X, TIED, HOLES, INTEGERS], ids=["plain", "tied", "holes", "integers"])
@pytest.mark.parametrize("dim", [-2, 0])
def test_places_of_extremes(values, dim):
    def function(x):
        results = [x.argmax(), x.argmin(), x.argmax(keepdim=True)]
        for d in range(4):
            results += [x.argmax(d), x.argmin(d, keepdim=True), *x.max(d), *x.min(d, keepdim=True)]
        return results

    compare(function, Cut(values, dim), gradients=False)


def test_gradients_of_chosen_values():
    compare(lambda x: [x.max(2)[0], x.min(2, keepdim=True)[0], x.max(3)[0], x.min(1)[0]], Cut(TIED))


def test_logic():
    def function(x):
        found = [x.any(), x.all(), torch.count_nonzero(x)]
        for d in (0, 1, 2, 3, (2, 3), (0, 1), (1, 2)):
            found += [x.any(d), x.all(d, keepdim=True), torch.count_nonzero(x, d)]
        return found

    for values in (BOOLS, torch.ones_like(BOOLS), torch.zeros_like(BOOLS), INTEGERS, INTEGERS.to(torch.uint8)):
        compare(function, Cut(values))


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3, torch.inf, -torch.inf, -1, -2.5])
def test_vector_norms(order):
    def call(x, dim, keepdim):
        return torch.linalg.vector_norm(x, order, dim, keepdim)

    compare(over_dims(call, dims=[None, 2, (2, 3), 3]), Cut(X))


def test_norms_in_older_spellings():
    compare(
        lambda x: [
            x.norm(),
            x.norm(1, 2),
            x.norm(3, (2, 3), True),
            torch.norm(x, "fro", (2, 3)),
            torch.norm(x, 2, dtype=torch.float64),
            torch.linalg.matrix_norm(x),
            torch.nn.functional.normalize(x, dim=2),
            torch.nn.functional.normalize(x, dim=1),
            torch.dist(x, 2 * x, 3),
            x.bfloat16().norm().double() * 0,
        ],
        Cut(X),
    )
    compare(lambda x: [x.norm(), x.norm(1, 2)], Cut(torch.zeros_like(X)))


def test_logsumexp():
    compare(over_dims(lambda x, dim, keepdim: x.logsumexp(dim, keepdim), dims=[2, 3, (1, 2), (0, 2, 3)]), Cut(X))
    masked = X.masked_fill(BOOLS, -torch.inf)
    masked[:, :, :3] = -torch.inf
    compare(lambda x: [x.logsumexp(2), x.logsumexp(3), (x * 300).logsumexp(2)], Cut(masked), gradients=False)


def test_variance_of_a_large_offset_loses_nothing():
    x = (1e4 + 1e-1 * torch.randn(1, 1, 64, 32)).float()
    exact = x.double().var().item()

    def body(domain):
        return graticule.shard(x, domain).var().item()

    for value in run_ranks(3, body):
        assert abs(value - exact) <= 1e-6 * exact


def test_all_ranks_have_the_same_bits():
    x = torch.randn(2, 3, 7, 5)

    def body(domain):
        t = graticule.shard(x, domain)
        return [t.sum(), t.mean(2), t.std(2), t.norm(), t.logsumexp(2), t.prod(2), *t.max(2)]

    first, *others = run_ranks(3, body)
    for other in others:
        assert all(torch.equal(a, b) and type(b) is torch.Tensor for a, b in zip(first, other, strict=True))


def test_order_along_uncut_dimensions():
    def function(x):
        results = []
        for d in (0, 1, 3):
            results += [*x.sort(d), *x.sort(dim=d, stable=True, descending=True), x.argsort(d), *x.topk(2, d)]
            results += [*x.median(d), *x.kthvalue(2, d, keepdim=True), *x.nanmedian(d)]
        return results

    compare(function, Cut(X), gradients=False)
    compare(lambda x: [*x.mode(3), *x.mode(1)], Cut(INTEGERS))


def test_order_along_the_cut_dimension():
    compare(
        lambda x: [*x.sort(2), *x.topk(2, 2), *x.median(2), x.median(), *x.kthvalue(2, 2), x.quantile(0.3, 2)],
        Cut(X),
        gathers=True,
    )


def test_quantiles():
    q = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for d in (0, 1, 3):
        compare(lambda x, d=d: [x.quantile(0.3, d), x.quantile(q, d), x.quantile(q, d, keepdim=True)], Cut(X))
        compare(lambda x, d=d: torch.nanquantile(x, 0.3, d, True, interpolation="lower"), Cut(HOLES), gradients=False)
    compare(lambda x: [x.quantile(0.3), x.quantile(q, 2), x.nanquantile(q, 2)], Cut(X), gathers=True)


def test_diagonals():
    compare(lambda x: [x[0, 0].trace(), x.diagonal(0, 2, 3) * 1, torch.corrcoef(x[0, 1])], Cut(X), gathers=True)


def test_order_has_gradients():
    compare(lambda x: [x.sort(3)[0], x.topk(2, 1)[0], x.median(3)[0], x.kthvalue(2, 1)[0]], Cut(X))


def test_answers_for_python():
    def body(domain):
        x = graticule.shard(X, domain)
        assert torch.equal(x, x + 0) and not torch.equal(x, x[:, :1])
        assert torch.equal(x, X) and torch.equal(X, x)
        different = X.clone()
        different[0, 0, -1, -1] += 1e-6
        other = graticule.shard(different, domain)
        assert not torch.equal(x, other)
        assert torch.allclose(x, other, atol=1e-3) and not torch.allclose(x, other, rtol=0, atol=1e-9)
        assert isinstance(x, DomainTensor)
        return [x.sum().item(), x.max().item(), float(x[:1, :1, 3:4, :1]), bool((x > 5).any())]

    for values in run_ranks(3, body):
        assert values[1:] == [X.max().item(), X[0, 0, 3, 0].item(), False]
        assert abs(values[0] - X.sum().item()) < 1e-12


def test_empty_dimensions():
    compare(
        lambda x: [x.sum(), x.sum(2), x.any(2), x.prod(2)], Cut(torch.zeros(2, 0, 7, dtype=torch.float64)), gathers=True
    )


@pytest.mark.parametrize("shape", [(7,), (3, 8), (2, 6, 4), (1, 2, 3, 4, 5)])
def test_any_shape(shape):
    x = torch.randn(shape, dtype=torch.float64)
    for dim in range(len(shape)):
        compare(
            lambda t, d=dim: [t.sum(d), t.amax(d), t.std(d, correction=0), t.argmax(), t.argmin(d), t.norm()],
            Cut(x, dim),
            ranks=(1, 3),
        )


@pytest.mark.parametrize("merge", [(0, 2), (1, 2), (2, 3), (1, 3), (0, 3)])
def test_cut_dimensions_that_were_merged_with_others(merge):
    def function(x):
        t = x.flatten(*merge)
        d = merge[0]
        results = [
            t.sum(d),
            t.mean(d),
            t.std(d),
            t.amax(d),
            t.norm(3, d),
            t.logsumexp(d),
            t.softmax(d),
            t.log_softmax(d),
        ]
        results += [t.max(d)[0], t.min(d)[0], t.argmax(d), t.argmin(), t.argmax(), t.aminmax()[0], t.prod().detach()]
        return [*results, t.count_nonzero(), (t > 0).any(d), torch.var_mean(t)[1]]

    compare(function, Cut(TIED + 0.1), gathers=True)
    compare(lambda x: [r.detach() for r in function(x)], Cut(TIED), gradients=False)
    compare(lambda x: x.flatten(*merge).cumsum(merge[0]), Cut(X), gradients=False, gathers=True)


def test_quantiles_are_differentiated_by_what_is_asked_for():
    q = torch.tensor([0.2, 0.7], dtype=torch.float64)
    compare(lambda x, q: x.quantile(q, 3), Cut(X), q)
    compare(lambda x, q: torch.quantile(input=x, q=q, dim=3), Cut(X), q)


def test_an_empty_batch():
    empty = torch.zeros(0, 3, 7, 5, dtype=torch.float64)
    compare(
        lambda x: [x.softmax(2), x.log_softmax(2), x.cumsum(2), x.prod(2), x.std(2), (x > 0).any(2), x.cummax(2)[0]],
        Cut(empty, 2),
        gathers=True,
    )


def test_moments_of_no_values():
    x = torch.zeros(3, 0, 4, dtype=torch.float64)
    compare(lambda x: [*torch.var_mean(x, 1), *torch.std_mean(x, (0, 1))], Cut(x, 1), ranks=(1, 2), gradients=False)
    compare(lambda x: torch.var_mean(x, 1), Cut(x, 0), ranks=(1, 2), gradients=False)
