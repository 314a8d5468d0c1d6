"""Products of matrices: cut along rows, columns, batches, what is summed over, and differently in the two."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import graticule
from graticule import DomainTensor
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


OPS = {
    "mm": (torch.mm, (5, 6), (6, 4)),
    "bmm": (torch.bmm, (7, 5, 6), (7, 6, 4)),
    "mv": (torch.mv, (5, 6), (6,)),
    "dot": (torch.dot, (6,), (6,)),
    "vdot": (torch.vdot, (6,), (6,)),
}


def ways(shape):
    """Whole, or cut along any dimension."""
    return [None, *range(len(shape))]


def argument(t, dim):
    return t if dim is None else Cut(t, dim)


@pytest.mark.parametrize("name", OPS)
def test_products(name):
    function, a, b = OPS[name]
    for i, j in itertools.product(ways(a), ways(b)):
        if (i, j) != (None, None):
            compare(function, argument(randn(*a), i), argument(randn(*b), j), ranks=(1, 3) if i and j else (2, 4))


SUMS = {
    "addmm": (torch.addmm, [(5, 4), (4,), (1, 4), (5, 1), ()], (5, 6), (6, 4)),
    "baddbmm": (torch.baddbmm, [(7, 5, 4), (1, 5, 4), (5, 1), (4,)], (7, 5, 6), (7, 6, 4)),
    "addbmm": (torch.addbmm, [(5, 4), (4,)], (7, 5, 6), (7, 6, 4)),
    "addmv": (torch.addmv, [(5,), (1,)], (5, 6), (6,)),
    "addr": (torch.addr, [(5, 4), (4,)], (5,), (4,)),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_with_products(name):
    function, biases, a, b = SUMS[name]
    cases = [(bias, k, i, j) for bias in biases for k in ways(bias) for i in ways(a) for j in ways(b)]
    cases = [case for case in cases if case[1:] != (None, None, None)]
    # Every third: the rest differs in nothing that these do not show.
    for bias, k, i, j in cases[:: max(1, len(cases) // 24)]:
        compare(
            lambda x, y, z: function(x, y, z, beta=0.5, alpha=-2),
            argument(randn(*bias), k),
            argument(randn(*a), i),
            argument(randn(*b), j),
            ranks=(3,),
        )


def test_a_bias_is_added_once():
    compare(torch.addmm, randn(4), Cut(randn(5, 6), 1), Cut(randn(6, 4), 0))
    nothing = torch.full((4,), float("nan"), dtype=torch.float64)
    compare(lambda x, y: torch.addmm(nothing, x, y, beta=0), Cut(randn(5, 6), 0), randn(6, 4))
    compare(lambda x, y: torch.addmm(nothing, x, y, beta=0), Cut(randn(5, 6), 1), randn(6, 4))


@pytest.mark.parametrize("dims", [(0, 0, 0), (0, 1, None), (1, None, 0), (0, 0, 1), (None, 1, 0)])
def test_in_place(dims):
    def function(x, a, b):
        y = x * 1
        y.addmm_(a, b, beta=2, alpha=0.5)
        return y

    values = (randn(5, 4), randn(5, 6), randn(6, 4))
    given = [argument(t, dim) for t, dim in zip(values, dims, strict=True)]
    compare(function, *given, ranks=(1, 3), gradients=dims[0] is not None)


@pytest.mark.parametrize("name", SUMS)
def test_every_sum_in_place(name):
    _, biases, a, b = SUMS[name]

    def function(x, y, z):
        return getattr(x * 1, f"{name}_")(y, z, beta=0.5, alpha=-2)

    for k, i, j in ((0, 0, None), (0, None, 0), (len(biases[0]) - 1, 0, 0)):
        compare(function, Cut(randn(*biases[0]), k), argument(randn(*a), i), argument(randn(*b), j), ranks=(1, 3))


def test_linear_and_its_parameters():
    for x in (Cut(randn(5, 6), 0), Cut(randn(5, 6), 1)):
        compare(F.linear, x, randn(4, 6), randn(4))
        compare(F.linear, x, randn(4, 6))
    for dim in range(4):
        compare(F.linear, Cut(randn(2, 7, 5, 6), dim), randn(4, 6), randn(4), ranks=(1, 3))
        compare(F.linear, Cut(randn(2, 7, 5, 6), dim), randn(4, 6), ranks=(2,))
    compare(lambda x, w, b: F.linear(x.flatten(0, 2), w, b), Cut(randn(2, 7, 5, 6), 1), randn(4, 6), randn(4))
    compare(F.linear, Cut(randn(6), 0), randn(4, 6), randn(4))


def test_matmul_broadcasts():
    a, b = randn(2, 3, 7, 5), randn(2, 3, 5, 4)
    for i, j in itertools.product(ways(a.shape), ways(b.shape)):
        if (i, j) != (None, None):
            compare(torch.matmul, argument(a, i), argument(b, j), ranks=(3,))
    compare(torch.matmul, Cut(randn(2, 7, 5), 1), randn(5))
    compare(torch.matmul, Cut(randn(2, 1, 7, 5), 2), randn(3, 5, 4))
    compare(torch.matmul, randn(7, 7), Cut(randn(2, 3, 7, 5), 2))
    compare(torch.matmul, randn(7), Cut(randn(2, 7, 5), 1))


EQUATIONS = [
    ("bchw,oc->bohw", (2, 4, 7, 3), 2, (5, 4), None),
    ("bchw,oh->bcow", (2, 4, 7, 3), 2, (5, 7), None),
    ("bhwc,bhvc->bhwv", (2, 7, 3, 4), 1, (2, 7, 6, 4), 1),
    ("bhwc,bgwc->bwhg", (2, 7, 3, 4), 1, (2, 5, 3, 4), 1),
    ("bchw,bchw->bc", (2, 4, 7, 3), 2, (2, 4, 7, 3), 2),
    ("bchw,bchw->", (2, 4, 7, 3), 2, (2, 4, 7, 3), 3),
    ("hw,h->w", (7, 3), 0, (7,), None),
    ("hw,w->h", (7, 3), 0, (3,), None),
    ("i,j->ij", (7,), 0, (5,), 0),
]


@pytest.mark.parametrize("case", EQUATIONS, ids=lambda case: case[0])
def test_einsum(case):
    equation, a, i, b, j = case
    compare(lambda x, y: torch.einsum(equation, x, y), argument(randn(*a), i), argument(randn(*b), j), ranks=(1, 2, 3))


def test_bilinear():
    module = nn.Bilinear(3, 4, 5).double()
    weight, bias = module.weight.detach(), module.bias.detach()
    for i, j in ((0, 0), (0, None), (None, 0), (1, None), (1, 1), (0, 1)):
        given = (argument(randn(7, 3), i), argument(randn(7, 4), j))
        compare(F.bilinear, *given, weight, bias, ranks=(1, 3))
    compare(F.bilinear, Cut(randn(2, 7, 3), 1), Cut(randn(2, 7, 4), 1), weight, bias, ranks=(2,))


def test_a_weight_used_twice_and_a_frozen_one():
    def function(x, w, v):
        y = F.linear(F.linear(x, w), w.t())
        return F.linear(y, v.detach()) + x.mean((0, 1)) @ w.t() @ w @ v.t()

    compare(function, Cut(randn(3, 7, 5), 1), randn(4, 5), randn(4, 5), ranks=(1, 3), gathers=True)


def test_complex():
    def complex_(*shape):
        return torch.randn(shape, dtype=torch.complex128)

    for i, j in ((0, None), (1, 0), (None, 1), (0, 1)):
        compare(
            lambda a, b: torch.view_as_real(torch.mm(a, b)),
            argument(complex_(5, 6), i),
            argument(complex_(6, 4), j),
            ranks=(3,),
            gathers=True,
            gradients=False,
        )


def test_half_sums_are_made_wide():
    a, b = torch.randn(8, 4096).bfloat16(), torch.randn(4096, 8).bfloat16()
    expected = a.double() @ b.double()

    def body(domain):
        return torch.mm(graticule.shard(a, domain, dim=1), graticule.shard(b, domain, dim=0))

    for result in run_ranks(4, body):
        assert result.dtype == torch.bfloat16
        assert (result.double() - expected).abs().max() < 2 * (a @ b - expected).abs().max() + 0.5


@pytest.mark.parametrize("shapes", [((5, 6), (7, 4)), ((6, 6), (5, 4))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    for i, j in ((0, 0), (1, 0), (0, 1)):

        def body(domain, i=i, j=j):
            torch.mm(
                graticule.shard(randn(*shapes[0]), domain, dim=i), graticule.shard(randn(*shapes[1]), domain, dim=j)
            )

        errors = failures(3, body)
        assert len(errors) == 3
        assert all("expected shapes that can be multiplied" in str(error) for error in errors.values())


def test_a_weight_gradient_is_plain_and_a_product_moves_the_smaller():
    def body(domain):
        x = graticule.shard(randn(64, 8), domain, dim=0)
        y = graticule.shard(randn(8, 6), domain, dim=1)
        with graticule.report() as report:
            z = x @ y
        assert isinstance(z, DomainTensor) and z.cut_dim == 0
        return report.bytes

    assert all(sent <= 2 * 8 * 6 * 8 + 512 for sent in run_ranks(2, body))


SIZES = st.integers(1, 6)


@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from(ways((1,) * 3)), st.sampled_from(ways((1,) * 3)), st.integers(1, 4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_sizes(batch, m, k, n, i, j, ranks):
    if (i, j) != (None, None):
        a, b = randn(batch, m, k), randn(batch, k, n)
        compare(torch.bmm, argument(a, i), argument(b, j), ranks=(ranks,))


def test_a_parameters_gradient_is_whole_where_the_results_is_cut_by_features():
    def function(x, other, weight, bias):
        return other * F.linear(x, weight, bias)

    arguments = (Cut(randn(2, 7, 5), 1), Cut(randn(2, 7, 4), 2), randn(4, 5), randn(4))
    compare(function, *arguments, ranks=(2, 3))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("inner", [3, 0])
def test_matmul_into_a_tensor(inner, dim):
    """Of three dimensions and two, which torch folds into two."""
    x, w = randn(5, 6, inner), randn(inner, 4)

    def body(domain):
        for into in (torch.zeros(5, 6, 4, dtype=torch.float64), None):
            cut = graticule.shard(x, domain, dim=dim)
            into = graticule.shard(torch.ones(5, 6, 4, dtype=torch.float64), domain, dim=dim) if into is None else into
            assert torch.matmul(cut, w, out=into) is into
            found = into.gather() if isinstance(into, DomainTensor) else into
            assert torch.allclose(found, x @ w, rtol=1e-12, atol=1e-12)
            with pytest.raises(RuntimeError, match="to write into"):
                torch.linalg.matmul(cut, w, out=torch.zeros(5, 4, dtype=torch.float64))
            with pytest.raises(RuntimeError, match="gradients"):
                torch.matmul(cut, w.clone().requires_grad_(), out=into)
            assert torch.linalg.matmul(cut, w, out=torch.empty(0, dtype=torch.float64)).shape == (5, 6, 4)

    run_ranks(3, body)
