"""Random numbers on cut tensors: those of the seed and the position, on any number of ranks; generators in step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import graticule
from graticule import DomainTensor
from graticule.tensor.random import by_position, check_generators, synchronize_generators
from graticule.tensor.registry import find_rule
from graticule.tensor.rules.random import draws
from processes.launch import WORKERS, torchrun
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 4, 7, 5, dtype=torch.float64)


def seeded(function, seed=5):
    """The function with seeds of its own: ranks are threads, and share torch's default generator."""

    def run(*arguments):
        with by_position(torch.Generator().manual_seed(seed)):
            return function(*arguments)

    return run


IN_PLACE = {
    "uniform_": lambda x: x.uniform_(-1, 3),
    "normal_": lambda x: x.normal_(1, 2),
    "bernoulli_": lambda x: x.bernoulli_(0.3),
    "bernoulli_.Tensor": lambda x: x.bernoulli_(torch.linspace(0, 1, 5)),
    "exponential_": lambda x: x.exponential_(2),
    "cauchy_": lambda x: x.cauchy_(1, 2),
    "log_normal_": lambda x: x.log_normal_(0.5, 0.25),
    "geometric_": lambda x: x.geometric_(0.2),
    "random_": lambda x: x.random_(),
    "random_.to": lambda x: x.random_(17),
    "random_.from": lambda x: x.random_(-5, 12),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name):
    for dim in (0, 2, 3):
        compare(seeded(lambda x: IN_PLACE[name](x.detach() * 1)), Cut(X, dim), ranks=(1, 2, 3), bound=0)


LIKE = {
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "randint_like": lambda x: torch.randint_like(x, 10),
    "randint_like.low": lambda x: torch.randint_like(x, -3, 10, dtype=torch.int64),
    "bernoulli": lambda x: torch.bernoulli(x.detach().sigmoid()),
    "bernoulli.p": lambda x: torch.bernoulli(x.detach(), 0.7),
    "normal": lambda x: torch.normal(x.detach(), x.detach().abs()),
    "normal.mean": lambda x: torch.normal(x.detach(), 0.5),
    "normal.std": lambda x: torch.normal(0.5, x.detach().abs()),
    "distribution": lambda x: torch.distributions.Normal(x.detach(), 1.0).sample(),
    "float": lambda x: torch.rand_like(x, dtype=torch.float32),
    "half": lambda x: torch.randn_like(x, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", LIKE)
def test_like(name):
    for dim in (1, 2):
        compare(seeded(LIKE[name]), Cut(X, dim), ranks=(1, 2, 3), bound=0, gradients=False)


DROPOUTS = {
    "dropout": lambda x: F.dropout(x, 0.4),
    "twice": lambda x: F.dropout(F.dropout(x, 0.2).relu(), 0.3),
    "in place": lambda x: F.dropout(x * 1, 0.4, inplace=True),
    "all": lambda x: F.dropout(x, 1.0),
    "none": lambda x: F.dropout(x, 0.0),
    "evaluating": lambda x: F.dropout(x, 0.4, training=False),
    "native": lambda x: torch.native_dropout(x, 0.4, True)[0],
    "alpha": lambda x: F.alpha_dropout(x, 0.4, training=True),
    "channels": lambda x: F.dropout2d(x, 0.4),
    "alpha of channels": lambda x: F.feature_alpha_dropout(x, 0.4, training=True),
    "gumbel": lambda x: F.gumbel_softmax(x, dim=1),
    "noise": lambda x: x + 0.1 * torch.randn_like(x),
    "paths": lambda x: x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.6).div_(0.6),
    "paths of a plain shape": lambda x: x / 0.6 * (0.6 + torch.rand((x.shape[0], 1, 1, 1), dtype=x.dtype)).floor(),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout(name):
    for dim in (0, 2):
        compare(seeded(DROPOUTS[name]), Cut(X, dim), ranks=(1, 2, 3))


def test_merged_tokens():
    compare(seeded(lambda x: F.dropout(x.permute(0, 2, 3, 1).reshape(-1, 4), 0.4).square()), Cut(X, 2), ranks=(1, 2, 3))


def test_one_two_and_five_ranks_draw_the_same():
    def body(domain):
        x = graticule.shard(X, domain)
        own = torch.Generator().manual_seed(11)
        return [torch.empty_like(x).normal_(generator=own).gather() for _ in range(2)]

    drawn = [run_ranks(size, body) for size in (1, 2, 5)]
    for ranks in drawn:
        for first, second in ranks:
            assert torch.equal(first, drawn[0][0][0]) and torch.equal(second, drawn[0][0][1])
            assert not torch.equal(first, second)


def test_torch_seeds_and_states():
    def body(domain):
        x = graticule.shard(X, domain)
        torch.manual_seed(3)
        first = torch.rand_like(x).gather()
        state = torch.get_rng_state()
        second = torch.rand_like(x).gather()
        torch.set_rng_state(state)
        assert torch.equal(torch.rand_like(x).gather(), second)
        torch.manual_seed(3)
        assert torch.equal(torch.rand_like(x).gather(), first)
        assert not torch.equal(first, second)
        with torch.random.fork_rng():
            torch.rand_like(x)
        torch.manual_seed(3)
        with by_position():
            assert torch.equal(torch.rand_like(X), first)
            assert torch.equal(torch.rand_like(x).gather(), second)

    run_ranks(1, body)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_draw_again(reentrant):
    layers = nn.Sequential(nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.3)).double()

    def body(domain):
        gradients = []
        for run in (layers, lambda x: checkpoint(layers, x, use_reentrant=reentrant)):
            x = graticule.shard(X, domain).requires_grad_()
            torch.manual_seed(9)
            run(x).square().sum().backward()
            gradients.append(x.grad.gather())
        assert torch.equal(*gradients)
        assert (gradients[0] == 0).any() and (gradients[0] != 0).any()

    run_ranks(1, body)


def test_a_plain_model_by_position():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5), nn.Dropout2d(0.3), nn.AlphaDropout(0.2)).double()
    compare(seeded(model), Cut(X), ranks=(1, 2, 3))
    torch.manual_seed(1)
    native = model(X)
    torch.manual_seed(1)
    with by_position():
        assert not torch.equal(model(X), native)
    with by_position(), torch.inference_mode():
        assert F.dropout(X, 0.5).eq(0).any()
        for made in (torch.rand(5), torch.randn(5, 2), torch.randint(3, (9,)), torch.randint(1, 3, (9,))):
            assert made.isfinite().all()
        assert torch.normal(0.0, 1.0, (4,)).dtype == torch.float32
        assert torch.randperm(4).sum() == 6


def test_numbers_have_their_distribution():
    def body(domain):
        x = graticule.shard(torch.zeros(40, 50, 60), domain)
        with by_position(torch.Generator().manual_seed(2)):
            numbers = torch.randn_like(x).gather()
            kept = F.dropout(x + 1, 0.25).gather()
            integers = torch.randint_like(x, -2, 3).gather()
        assert abs(numbers.mean()) < 0.02 and abs(numbers.std() - 1) < 0.02
        assert abs((kept == 0).double().mean() - 0.25) < 0.01 and kept.max() == pytest.approx(1 / 0.75)
        counts = [(integers == i).double().mean() for i in range(-2, 3)]
        assert all(abs(count - 0.2) < 0.01 for count in counts)
        rows = numbers.flatten(1)
        assert abs(torch.corrcoef(rows) - torch.eye(40)).max() < 0.15

    run_ranks(3, body)


def test_parameters_that_torch_refuses():
    def body(domain):
        x = graticule.shard(X, domain)
        for function in (lambda: x.bernoulli_(1.5), lambda: x.normal_(0, -1), lambda: x.uniform_(1, 0)):
            with pytest.raises(RuntimeError):
                function()
        with pytest.raises(RuntimeError):
            x.random_(3, 3)

    run_ranks(2, body)


def test_every_random_op_that_has_a_pointwise_tag_has_a_rule():
    """Its numbers would be drawn row by row otherwise."""
    for name in torch._C._dispatch_get_all_op_names():
        space, _, rest = name.partition("::")
        if space != "aten":
            continue
        packet, _, overload = rest.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), overload or "default", None)
        if op is not None and {torch.Tag.nondeterministic_seeded, torch.Tag.pointwise} <= set(op.tags):
            assert op in draws or str(op) == "aten.rrelu.default", str(op)
            assert find_rule(op) is not None


def test_other_random_ops_are_whole():
    def body(domain):
        x = graticule.shard(X.abs(), domain)
        for made in (torch.poisson(x), F.rrelu(x, training=True)):
            assert isinstance(made, DomainTensor) and made.shape == X.shape
        with torch.inference_mode():
            assert F.rrelu(x, training=True).shape == X.shape

    run_ranks(1, body)


def test_generators_that_drift_are_found():
    def body(domain, drift):
        own = torch.Generator().manual_seed(4)
        check_generators(domain, own)
        if drift and domain.rank == 1:
            torch.rand(3, generator=own)
        graticule.check_generators(domain, own)

    run_ranks(3, lambda domain: body(domain, False))
    errors = failures(3, lambda domain: body(domain, True))
    assert len(errors) == 3
    assert all("check_generators" in str(error) and "1" in str(error) for error in errors.values())


def test_generators_are_brought_into_step():
    def body(domain):
        own = torch.Generator().manual_seed(domain.rank)
        synchronize_generators(domain, own)
        check_generators(domain, own)
        return torch.rand(3, generator=own)

    drawn = run_ranks(3, body)
    assert all(torch.equal(numbers, torch.rand(3, generator=torch.Generator().manual_seed(0))) for numbers in drawn)


def test_check_mode_finds_a_drift(monkeypatch):
    monkeypatch.setenv("GRATICULE_CHECK", "1")

    def body(domain):
        own = torch.Generator().manual_seed(domain.rank)
        torch.empty_like(graticule.shard(X, domain)).uniform_(generator=own)

    errors = failures(2, body)
    assert len(errors) == 2
    assert all("generators" in str(error) for error in errors.values())


@pytest.mark.parametrize("how", ["other seeds", "a draw more", "a cut draw more"])
def test_a_drift_ends_at_the_next_message(how):
    """Draws themselves send nothing."""

    def body(domain):
        own = torch.Generator().manual_seed(domain.rank if how == "other seeds" else 5)
        x = graticule.shard(X, domain)
        if how == "a draw more" and domain.rank == 1:
            torch.rand(3, generator=own)
        if how == "a cut draw more" and domain.rank == 1:
            torch.empty_like(x).uniform_(generator=torch.Generator())
        y = x * torch.empty_like(x).uniform_(generator=own)
        assert y.shape == X.shape
        y.sum()

    errors = failures(3, body)
    assert len(errors) == 3
    assert any("has drawn other random numbers" in str(error) for error in errors.values()), errors


@pytest.mark.parametrize("drifts", [False, True])
def test_a_drift_of_what_is_drawn_uncut(drifts):
    def body(domain):
        own = torch.Generator().manual_seed(domain.rank if drifts else 3)
        graticule.shard(X[0, 0].exp(), domain, dim=0).multinomial(2, generator=own)
        graticule.shard(X, domain).sum()

    errors = failures(2, body)
    assert len(errors) == (2 if drifts else 0), errors
    assert not drifts or any("has drawn other random numbers" in str(error) for error in errors.values()), errors


def test_processes_draw_alike():
    assert "drawn alike" in torchrun(3, WORKERS / "drawing.py")


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data(), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_shape(shape, data, ranks, seed):
    dim = data.draw(st.integers(0, len(shape) - 1))
    x = torch.zeros(shape, dtype=torch.float64)
    compare(seeded(torch.rand_like, seed), Cut(x, dim), ranks=(ranks,), bound=0, gradients=False)
    assert math.prod(shape) == seeded(torch.rand_like, seed)(x).unique().numel()


def test_normal_numbers_have_the_type_of_their_means():
    def body(domain):
        x = graticule.shard(torch.zeros(4, 3), domain, 0)
        with by_position(torch.Generator().manual_seed(1)):
            assert torch.normal(x, torch.ones(3, dtype=torch.float64)).dtype == torch.float32
            assert torch.normal(0.0, x.double() + 1).dtype == torch.float64

    run_ranks(2, body)
