"""What autograd makes of views and of writes into them: as on plain tensors."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import graticule
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 5, dtype=torch.float64)
Y = torch.randn(2, 3, 7, 5, dtype=torch.float64)
SLICES = st.slices(7).filter(lambda s: s.step is None or s.step > 0)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(SLICES, SLICES, st.sampled_from(["=", "*", "+"])), min_size=1, max_size=4), st.integers(2, 3))
def test_any_writes(writes, ranks):
    def function(x, y):
        z = x * 1
        for to, by, how in writes:
            view = z[:, :, to]
            value = y[:, :, by]
            if value.shape != view.shape and value.shape[2] != 1:
                value = y[:, :, to]
            if how == "=":
                z[:, :, to] = value
            elif how == "*":
                view *= value
            else:
                view.add_(value)
        return z.sin()

    compare(function, Cut(X), Cut(Y), ranks=(ranks,))


def test_views_follow_writes_into_their_base():
    def function(x, w):
        z = x * 1
        inner = z[:, :, 1:6]
        left, right = z[..., :2], z[0]
        z.mul_(2)
        inner.mul_(w[..., 1:6, :])
        z[:, 1:2].add_(x[:, :1])
        return [inner * inner, left.exp(), right * 3, z.permute(0, 2, 3, 1) * 2, z.transpose(1, 2)[:, 1:3].sin()]

    compare(function, Cut(X), torch.randn_like(X))


def test_writes_through_other_views():
    def function(x, y):
        z = x * 1
        z.transpose(1, 2)[:, 2:5] = y.transpose(1, 2)[:, 1:4]
        z.permute(0, 2, 3, 1)[:, ::2].mul_(3)
        z.unsqueeze(0)[0, :, :, 3:].add_(1)
        z.flatten(0, 1)[2:4, 4:] = 0.5
        return z * 1

    compare(function, Cut(X), Cut(Y))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    def block(x, y):
        z = torch.cat([x[:, :, -2:], x, x[:, :, :2]], 2)
        z = F.pad(z, (1, 1, 0, 0), mode="circular")
        out = z[..., 2:-2, 1:-1] * 1
        out[:, :, 1:3] = y[:, :, 3:5]
        return out.roll(3, 2) * z[..., 1:8, 2:]

    compare(lambda x, y: checkpoint(block, x, y, use_reentrant=reentrant), Cut(X), Cut(Y), ranks=(2, 3))


def test_gradients_of_gradients():
    def function(x, y):
        z = F.pad(x[:, :, 1:], (1, 1, 2, 1), mode="reflect").roll(1, 2)
        z = F.pad(z, (1, 2, 1, 1), mode="circular")
        z = torch.cat([z[..., 1:6], y.flip(2)], 2) ** 3
        (g,) = torch.autograd.grad((z[:, :, ::2] ** 2).sum(), x, create_graph=True)
        return g * y

    compare(function, Cut(X), Cut(Y))


def test_an_argument_of_a_write_has_a_whole_gradient():
    def function(x, w, v):
        z = x * 1
        z.mul_(w)
        z[:, :, 2:4] += w[:, :, 2:4]
        z[:, :, 1:2] = v
        z[:, :, 5] = v[0, 0, 0]
        return z * z

    compare(function, Cut(X), torch.randn_like(X), torch.randn(1, 1, 1, 5, dtype=torch.float64))


def test_a_leaf_that_needs_a_gradient_is_not_written_into():
    def body(domain):
        x = graticule.shard(X, domain).requires_grad_()
        x[:, :, 1:3] = 0

    errors = failures(2, body)
    assert len(errors) == 2 and all("leaf" in str(error) for error in errors.values())


def test_in_inference_mode():
    def body(domain):
        with torch.inference_mode():
            x = graticule.shard(X, domain)
            x[:, :, 2:4] = 1
            x[0, 0, 6, 1] = 3
            with pytest.raises(RuntimeError, match="would be lost"):
                x[0, 0, 3, 1].sin_()
            x[0, 0, 3, 0].fill_(1)
            return x.gather()

    expected = X.clone()
    expected[:, :, 2:4] = 1
    expected[0, 0, 6, 1] = 3
    expected[0, 0, 3, 0] = 1
    assert all(torch.equal(result, expected) for result in run_ranks(2, body))


def test_a_view_whose_rows_were_moved_before_a_write_is_refused():
    def body(domain):
        x = graticule.shard(X, domain) * 1
        moved = x.view(2, 3, 5, 7)
        assert moved._moved
        assert torch.equal((moved * 1).gather(), X.view(2, 3, 5, 7))
        x[:, :, 2:5] = 0
        with pytest.raises(RuntimeError, match="written into"):
            torch.cat([moved, moved])
        return moved + 1

    errors = failures(2, body)
    assert len(errors) == 2 and all("written into" in str(error) for error in errors.values())


@pytest.mark.parametrize(
    "read",
    [
        lambda x, view: view.gather(),
        lambda x, view: view.sum(),
        lambda x, view: view * x[..., 0, :].unsqueeze(-1),
        lambda x, view: x[..., 0, :].unsqueeze(-1) * view,
    ],
)
@pytest.mark.parametrize("made", [lambda v: v, lambda v: v.detach(), lambda v: v.data, lambda v: v.detach().detach()])
def test_an_old_view_is_noticed_however_it_was_made_and_is_read(made, read):
    def body(domain):
        x = graticule.shard(X, domain) * 1
        view = made(x.view(2, 3, 5, 7))
        assert view._moved
        x.mul_(-2)
        return read(x, view)

    errors = failures(2, body)
    assert len(errors) == 2 and all("written into" in str(error) for error in errors.values())


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x.gather() + w,
        lambda x, w: x + w,
        lambda x, w: F.pad(x, (0, 0, 0, 0), mode="circular") + w,
        lambda x, w: F.pad(x, (0, 0, 0, 0), mode="replicate") + x,
        lambda x, w: torch.cat([x], 2) + w,
        lambda x, w: x[:, :, :] + w[:, :, :],
        lambda x, w: graticule.from_local(x.local, x.domain, 2) + x + w,
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_of_two_steps_share_no_memory(function, ranks):
    def body(domain):
        x = graticule.shard(X, domain, dim=2).requires_grad_()
        w = Y.clone().requires_grad_()
        for _ in range(3):
            (function(x, w) * 2.5).sum().backward()
        once = graticule.shard(X, domain, dim=2).requires_grad_()
        other = Y.clone().requires_grad_()
        (function(once, other) * 2.5).sum().backward()
        assert torch.equal(x.grad.gather(), 3 * once.grad.gather())
        if w.grad is not None:
            assert torch.equal(w.grad, 3 * other.grad)

    run_ranks(ranks, body)
