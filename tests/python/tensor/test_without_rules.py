"""Ops that have no rule: run uncut on every rank, exact in value and gradient, and listed in the report."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import graticule
from graticule import DomainTensor
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 4, 7, 6, dtype=torch.float64)
W = torch.randn(5, 4, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: F.conv2d(x, w, stride=2, padding=1),
        lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), w),
        lambda x, w: F.max_pool2d(x, 3, 2, 1).sum() * w.sum(),
        lambda x, w: F.interpolate(x, scale_factor=2, mode="bilinear") * w.mean(),
        lambda x, w: F.group_norm(x, 2) * w[0, :, 0, :1, None],
        lambda x, w: F.layer_norm(x, (6,)).flatten(1).softmax(-1) * w.std(),
        lambda x, w: x.transpose(1, 2).reshape(2, 7, 24) @ w.view(5, 36)[:, :24].t(),
        lambda x, w: torch.cat([x[:, :, 3:], x.flip(2), x.roll(2, 2)], 2) - w.amax(),
        lambda x, w: torch.einsum("bchw,ocij->bohw", x, w).cumsum(2),
        lambda x, w: F.mse_loss(x, X.sin()) + w.square().sum(),
    ],
)
def test_any_function(function):
    compare(function, Cut(X), W, gathers=True)


def test_a_module_with_checkpoints():
    module = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 1)).double()
    weights = list(module.parameters())

    for reentrant in (True, False):

        def function(x, *parameters, reentrant=reentrant):
            own = dict(zip(dict(module.named_parameters()), parameters, strict=True))

            # Ranks are threads: each swaps the parameters of a module of its own.
            mine = copy.deepcopy(module)

            def run(t):
                return torch.func.functional_call(mine, own, (t,))

            return checkpoint(run, x, use_reentrant=reentrant)

        # A re-entrant checkpoint gives parameters that it closes over their gradients all the same.
        compare(function, Cut(X), *(w.detach() for w in weights), ranks=(2,), gathers=True)


def test_parameters_of_a_module_have_whole_gradients():
    serial = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2)).double()
    serial(X).square().mean().backward()

    def body(domain):
        model = copy.deepcopy(serial)
        for step in range(2):
            model.zero_grad() if step == 0 else None
            model(graticule.shard(X, domain)).square().mean().backward()
        return [p.grad for p in model.parameters()]

    for gradients in run_ranks(3, body):
        for gradient, p in zip(gradients, serial.parameters(), strict=True):
            assert type(gradient) is torch.Tensor
            torch.testing.assert_close(gradient, 2 * p.grad, rtol=1e-10, atol=1e-14)


def test_strict_names_the_line_on_every_rank():
    def body(domain):
        with graticule.report(strict=True):
            torch.linalg.svdvals(graticule.shard(X, domain))

    errors = failures(2, body)
    assert len(errors) == 2
    assert all("test_without_rules.py" in str(error) for error in errors.values())


def test_a_write_into_a_view_whose_rows_moved_is_refused():
    def body(domain):
        x = graticule.shard(X, domain)
        x.view(2, 4, 6, 7)[:, :, 3:].zero_()

    errors = failures(2, body)
    assert len(errors) == 2
    assert all("would be lost" in str(error) for error in errors.values())


def test_copies_and_pickles():
    def body(domain):
        x = graticule.shard(X, domain).requires_grad_()
        other = copy.deepcopy(x)
        assert isinstance(other, DomainTensor) and other.requires_grad and other.local.data_ptr() != x.local.data_ptr()
        with pytest.raises(RuntimeError, match="cannot be pickled"):
            pickle.dumps(x)
        return x.gather(2, torch.zeros(2, 4, 1, 6, dtype=torch.int64))

    first = X[:, :, :1]
    for result in run_ranks(2, body):
        whole = result.gather() if isinstance(result, DomainTensor) else result
        assert torch.equal(whole.detach(), first)


def test_uncut_ops_see_the_strides_that_their_gradients_see():
    """Of a slice, of a transposed matrix, and of what lies in order: LU decomposes the one or the other."""
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    square = torch.randn(2, 5, 5, dtype=torch.float64)
    compare(lambda t: torch.linalg.slogdet(t[:, :5])[1], Cut(x), gathers=True)
    compare(lambda t: torch.linalg.det(t[:, 1:6]), Cut(x), gathers=True)
    compare(lambda t: torch.linalg.det(t.transpose(1, 2)), Cut(square), gathers=True)
    compare(lambda t: torch.linalg.solve(t.transpose(1, 2), t), Cut(square), gathers=True)


def test_results_of_uncut_ops_have_the_same_strides_on_every_rank():
    """Factors lie in Fortran's order, which a single row does not show."""
    x = torch.randn(3, 5, dtype=torch.float64)
    compare(lambda t: torch.linalg.svd(t, full_matrices=False)[1], Cut(x), gathers=True)
    compare(lambda t: torch.linalg.eigh(t @ t.mT)[1].abs(), Cut(x), gathers=True)
