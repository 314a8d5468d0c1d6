"""Arguments that PyTorch refuses are refused on every rank, also where one rank alone would notice."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graticule
from support.ranks import failures, run_ranks

X = torch.randn(2, 3, 7, dtype=torch.float64)
ONE = torch.tensor([0])


@pytest.mark.parametrize("rows", [7, 2], ids=["rows on every rank", "a rank without"])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(4),
        lambda x: x.sum((1, 1)),
        lambda x: x.mean(-4),
        lambda x: x.amax(3),
        lambda x: x.max(3),
        lambda x: x.argmax(5),
        lambda x: x.var(5),
        lambda x: x.norm(dim=3),
        lambda x: x.logsumexp(5),
        lambda x: x.count_nonzero(5),
        lambda x: x.softmax(5),
        lambda x: x.cumsum(5),
        lambda x: x.cummax(-4),
        lambda x: x.sort(5),
        lambda x: x.median(5),
        lambda x: x.gather(5, torch.zeros(1, 1, 1, dtype=torch.int64)),
        lambda x: x.index_select(5, ONE),
        lambda x: x.index_fill(5, ONE, 0.0),
        lambda x: x.unfold(5, 1, 1),
        lambda x: x.transpose(0, 5),
        lambda x: x.quantile(0.5, 5),
        lambda x: x.long().norm(),
        lambda x: x.to(torch.complex128).amax(),
        lambda x: x.to(torch.complex128).argmax(2),
        lambda x: x.to(torch.complex128).max(2),
        lambda x: x.to(torch.complex128).min(0),
        lambda x: x.to(torch.complex128).amax(0),
        lambda x: x.to(torch.complex128).aminmax(dim=1),
        lambda x: x.to(torch.complex128).cummax(2),
        lambda x: x[:, :, torch.tensor([0.7])],
        lambda x: x[:, :, torch.tensor([0], dtype=torch.int16)],
        lambda x: x.index_select(2, torch.tensor([0.7])),
        lambda x: torch.normal(x, -x.abs()),
        lambda x: torch.bernoulli(x.abs() + 2),
    ],
)
def test_on_every_rank(function, rows):
    x = X[..., :rows].contiguous()
    with pytest.raises((IndexError, RuntimeError, ValueError)) as expected:
        function(x.clone())
    found = failures(3, lambda domain: function(graticule.shard(x, domain, 2)))
    assert sorted(found) == [0, 1, 2]
    for error in found.values():
        assert isinstance(error, expected.type), error


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.long().softmax(1),
        lambda x: x.to(torch.complex128).sort(1),
        lambda x: x.to(torch.complex128).cummin(1),
        lambda x: x.to(torch.complex128).floor(),
        lambda x: x.long().logcumsumexp(1),
        lambda x: F.avg_pool1d(x > 0, 1),
        lambda x: F.max_pool1d(x > 0, 1),
        lambda x: F.layer_norm(x.long(), (3, 2)),
        lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3)),
        lambda x: F.huber_loss(x.long(), x.long(), reduction="none"),
        lambda x: torch.bmm(x > 0, x.mT > 0),
        lambda x: F.pad((x > 0).unsqueeze(0), (0, 0, 1, 1), mode="reflect"),
    ],
)
def test_types_that_a_rank_without_rows_does_not_see(function):
    """It learns of the others' error by its next message."""
    x = X[..., :2].contiguous()
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        function(x.clone())

    def body(domain):
        cut = graticule.shard(x, domain, 2)
        function(cut)
        cut.sum()

    assert sorted(failures(3, body)) == [0, 1, 2]


def test_errors_that_every_rank_has_end_no_domain():
    """Where some rank has no rows: of arguments, of whole matrices, and of this library."""

    def body(domain):
        x = graticule.shard(X[..., :2].contiguous(), domain, 2)
        for wrong in (
            lambda: x.sum(7),
            lambda: torch.linalg.cholesky(x @ x.mT - 9),
            lambda: x.view(5),
            lambda: x.numpy(),
        ):
            with pytest.raises((RuntimeError, IndexError, TypeError)):
                wrong()
        assert torch.equal(x.gather(), X[..., :2])

    run_ranks(3, body)


def _spoilt(x, value):
    x[-1] = value
    return x


IN_ONE_SHARD = {
    "embedding": lambda domain: F.embedding(
        graticule.shard(_spoilt(torch.zeros(6, 2, dtype=torch.int64), 9), domain, 0), torch.randn(9, 4)
    ),
    "index": lambda domain: torch.randn(9, 4)[
        graticule.shard(_spoilt(torch.zeros(6, dtype=torch.int64), 9), domain, 0)
    ],
    "cross entropy": lambda domain: F.cross_entropy(
        graticule.shard(torch.randn(8, 4), domain, 0),
        graticule.shard(_spoilt(torch.zeros(8, dtype=torch.int64), 4), domain, 0),
    ),
    "gather": lambda domain: graticule.shard(torch.randn(8, 4), domain, 0).gather(
        1, graticule.shard(_spoilt(torch.zeros(8, 1, dtype=torch.int64), 4), domain, 0)
    ),
    "binary cross entropy": lambda domain: F.binary_cross_entropy(
        graticule.shard(_spoilt(torch.full((8, 4), 0.5), 1.5), domain, 0), torch.ones(8, 4)
    ),
    "number of rows": lambda domain: graticule.from_local(torch.randn(2 + domain.rank, 4), domain, dim=0, rows=4),
}


@pytest.mark.parametrize("name", IN_ONE_SHARD)
def test_what_one_rank_alone_sees(name):
    """The others learn of it where they would exchange something next."""
    found = failures(2, lambda domain: IN_ONE_SHARD[name](domain).sum())
    assert sorted(found) == [0, 1]
    assert "rank 1" in str(found[0]), found[0]


def test_sampling_another_batch():
    def body(domain):
        return F.grid_sample(
            torch.randn(1, 3, 4, 4), graticule.shard(torch.rand(3, 5, 5, 2), domain, 0), align_corners=False
        )

    found = failures(2, body)
    assert len(found) == 2 and all("same batch size" in str(error) for error in found.values())


def test_data_of_another_kind():
    def body(domain):
        graticule.shard(X, domain, 2).data = X

    found = failures(2, body)
    assert len(found) == 2 and all("expected two DomainTensors" in str(error) for error in found.values())


def test_a_parameter_that_is_cut_moves_between_types():
    """Module.to sets .data."""

    def body(domain):
        module = nn.Module()
        module.field = nn.Parameter(graticule.shard(X, domain, 2))
        module.float()
        assert module.field.dtype == torch.float32 and module.field._local.dtype == torch.float32
        assert torch.equal(module.field.gather(), X.float())

    assert not failures(2, body)


A, B = torch.randn(5, 6, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
WIDE = torch.randn(2, 5, 4, dtype=torch.float64)
QUERIES = torch.randn(1, 1, 7, 4, dtype=torch.float64)
TYPES = {
    "a sum of more dimensions": lambda cut: torch.addmm(WIDE, cut(A, 1), B),
    "a sum of more rows": lambda cut: torch.addmm(A[:, :4], cut(A[:1], 1), B),
    "a sum of more rows, in place": lambda cut: A[:, :4].clone().addmm_(cut(A[:1], 1), B),
    "a sum of another type": lambda cut: torch.addmm(A[:, :4].float(), cut(A, 1), B),
    "weights of layer_norm of fewer dimensions": lambda cut: F.layer_norm(cut(A, 0), (5, 6), A[0]),
    "a bias of layer_norm of one row": lambda cut: F.layer_norm(cut(A, 0), (5, 6), None, A[:1]),
    "dropout in attention": lambda cut: F.scaled_dot_product_attention(*[cut(QUERIES, 2)] * 3, dropout_p=1.5),
    "types in attention": lambda cut: F.scaled_dot_product_attention(
        cut(QUERIES, 2), cut(QUERIES.float(), 2), cut(QUERIES, 2)
    ),
    "a mask of whole numbers": lambda cut: F.scaled_dot_product_attention(
        *[cut(QUERIES, 2)] * 3, attn_mask=torch.ones(7, 7, dtype=torch.int64)
    ),
    "a class for one row of three": lambda cut: F.nll_loss(
        cut(torch.randn(2, 4, 3, 5), 2), torch.zeros(2, 1, 5, dtype=torch.int64)
    ),
    "classes for three rows of one": lambda cut: F.nll_loss(
        torch.randn(2, 4, 1, 5), cut(torch.zeros(2, 3, 5, dtype=torch.int64), 1), reduction="sum"
    ),
    "backward from a complex number": lambda cut: (cut(A.to(torch.complex128), 0).requires_grad_() * 1)[
        2, 1
    ].backward(),
}


@pytest.mark.parametrize("name", TYPES)
def test_shapes_and_types(name):
    with pytest.raises(RuntimeError):
        TYPES[name](lambda t, dim: t.clone())
    found = failures(3, lambda domain: TYPES[name](lambda t, dim: graticule.shard(t, domain, dim)))
    assert sorted(found) == [0, 1, 2]
    assert all(isinstance(error, RuntimeError) for error in found.values()), found


def test_a_cut_result_of_another_shape():
    """Uncut it would be resized."""

    def body(domain):
        torch.sum(graticule.shard(A, domain, 0), 1, keepdim=True, out=graticule.shard(torch.zeros(5, 6), domain, 0))

    found = failures(2, body)
    assert len(found) == 2 and all("cannot be resized" in str(error) for error in found.values()), found


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.conv_transpose2d(x, torch.ones(3, 4, 1, 1, dtype=x.dtype), padding=1),
        lambda x: F.conv_transpose2d(x, torch.ones(3, 4, 3, 1, dtype=x.dtype), output_padding=(1, 0)),
        lambda x: F.conv2d(x, torch.ones(4, 3, 3, 1, dtype=x.dtype)),
        lambda x: graticule.parallelize(nn.Sequential(nn.Conv2d(3, 4, 3)), x.domain)(x.float()),
        lambda x: graticule.parallelize(nn.Sequential(nn.ConvTranspose2d(3, 4, 1, padding=1)), x.domain)(x.float()),
    ],
)
def test_convolutions_that_have_no_output(function):
    x = torch.randn(1, 3, 2, 5, dtype=torch.float64)
    errors = failures(2, lambda domain: function(graticule.shard(x, domain)))
    assert [type(errors[rank]) for rank in range(2)] == [RuntimeError] * 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x % y,
        lambda x, y: x.fmod(y),
        lambda x, y: x // y,
        lambda x, y: x.div(y, rounding_mode="trunc"),
        lambda x, y: x.remainder_(y),
        lambda x, y: 7 % y,
    ],
)
def test_a_division_by_zero_on_one_rank_is_an_error_on_both(function):
    def body(domain):
        x, y = (graticule.shard(t, domain, 0) for t in (torch.arange(4), torch.tensor([1, 1, 1, 0])))
        return function(x, y).sum()

    errors = failures(2, body)
    assert "ZeroDivisionError" in str(errors[1]) and "rank 1" in str(errors[0])
