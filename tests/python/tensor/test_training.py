"""What a training step does with reductions: scales from global means, losses, accumulation, gradients of gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import graticule
from graticule import DomainTensor
from support.ranks import relative, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 4, 7, 5, dtype=torch.float64)
Y = torch.randn(2, 4, 7, 5, dtype=torch.float64)
W = torch.randn(4, 4, dtype=torch.float64)
V = torch.randn(4, dtype=torch.float64)


def squeeze_and_excite(x, w, v):
    scale = torch.sigmoid(F.relu(x.mean((2, 3)) @ w) + v)
    return x * scale[:, :, None, None]


def test_squeeze_and_excitation():
    compare(squeeze_and_excite, Cut(X), W, V)
    compare(lambda x, w, v: F.mse_loss(squeeze_and_excite(x, w, v), Y), Cut(X), W, V)
    compare(lambda x, w, v: squeeze_and_excite(F.adaptive_avg_pool2d(x, 1) * x, w, v).square().mean(), Cut(X), W, V)


def test_a_parameter_used_on_cut_and_on_replicated_values():
    def function(x, w, v):
        pooled = x.amax((2, 3)) @ w
        y = torch.einsum("bchw,co->bohw", x, w) + pooled[:, :, None, None] * v[:, None, None]
        return [F.smooth_l1_loss(y, x), (pooled * v).sum(), (v * v).sum() + w.norm()]

    compare(function, Cut(X), W, V)


def test_weights_by_latitude():
    latitudes = torch.rand(7, 1, dtype=torch.float64)

    def function(x, y, w):
        weighted = (x - y).square() * w
        return [
            weighted.mean(),
            weighted.sum() / w.sum(),
            weighted.sum(2).mean(),
            (weighted / w.mean()).mean((0, 2, 3)),
        ]

    compare(function, Cut(X), Cut(Y), latitudes)
    compare(function, Cut(X), Y, latitudes)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.gate = nn.Linear(4, 4)

    def forward(self, x):
        y = F.silu(self.norm(self.first(x)))
        y = self.frozen(y) * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None]
        return y + x


# Steps that divide by the gradient's size would make much of one that is zero but for rounding, as that of a bias
# before batch normalisation is.
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.02, eps=1e-2),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.02, eps=1e-2),
    ],
    ids=["SGD", "AdamW", "RMSprop"],
)
def test_clipped_steps_of_an_optimizer(optimizer):
    """Three of them: all ranks take the uncut model's."""
    torch.manual_seed(2)
    serial = Model().double()
    given = copy.deepcopy(serial)

    def train(model, x, y):
        steps = optimizer([p for p in model.parameters() if p.requires_grad])
        for _ in range(3):
            steps.zero_grad()
            F.mse_loss(model(x), y).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            nn.utils.clip_grad_value_(model.parameters(), 0.05)
            steps.step()
        return norm

    expected = train(serial, X, Y)

    def body(domain):
        model = copy.deepcopy(given)
        norm = train(model, graticule.shard(X, domain, dim=2), graticule.shard(Y, domain, dim=2))
        assert relative(norm, expected) < 1e-10
        for found, wanted in zip(model.state_dict().values(), serial.state_dict().values(), strict=True):
            assert type(found) is torch.Tensor and relative(found, wanted) < 1e-10

    run_ranks(3, body)


def test_two_accumulation_steps_and_a_frozen_parameter():
    torch.manual_seed(1)
    serial = Model().double()
    given = copy.deepcopy(serial)
    for step in (1, 2):
        F.mse_loss(serial(step * X), Y).backward()

    def body(domain):
        model = copy.deepcopy(given)
        for step in (1, 2):
            loss = F.mse_loss(model(graticule.shard(step * X, domain)), graticule.shard(Y, domain))
            assert type(loss) is torch.Tensor
            loss.backward()
        return model

    for size in (2, 3):
        for model in run_ranks(size, body):
            for (name, p), q in zip(serial.named_parameters(), model.parameters(), strict=True):
                assert type(q.grad) is (type(None) if "frozen" in name else torch.Tensor), name
                if q.grad is not None:
                    torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-13)
            for kept, other in zip(serial.buffers(), model.buffers(), strict=True):
                torch.testing.assert_close(other, kept, rtol=1e-10, atol=1e-13)


def test_gradients_by_name_and_retained():
    x = X.clone().requires_grad_()
    h = (x * 2).softmax(2)
    h.retain_grad()
    loss = F.l1_loss(h, Y)
    (expected,) = torch.autograd.grad(loss, x, retain_graph=True)
    loss.backward()

    def body(domain):
        t = graticule.shard(X, domain).requires_grad_()
        mid = (t * 2).softmax(2)
        mid.retain_grad()
        value = F.l1_loss(mid, graticule.shard(Y, domain))
        (gradient,) = torch.autograd.grad(value, t, retain_graph=True)
        value.backward()
        assert isinstance(gradient, DomainTensor) and isinstance(mid.grad, DomainTensor)
        return gradient.gather(), t.grad.gather(), mid.grad.gather()

    for by_name, by_leaf, retained in run_ranks(3, body):
        torch.testing.assert_close(by_name, expected, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(by_leaf, x.grad, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(retained, h.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "model",
    [
        lambda x, w, v: (x * v[:, None, None]).tanh().square(),
        lambda x, w, v: squeeze_and_excite(x, w, v).sin(),
        lambda x, w, v: (x * x.mean((2, 3), keepdim=True) * v[:, None, None]).exp().mean(),
        lambda x, w, v: x.softmax(2).square() * v[:, None, None],
        lambda x, w, v: x.std(2).square().sum() * v.sum() + x.norm() * w.norm(),
        lambda x, w, v: (x.amax(2) ** 3).sum() + x.logsumexp((2, 3)).sin().sum() * w.sum(),
        lambda x, w, v: F.mse_loss(x * v[:, None, None], x.sin()),
        lambda x, w, v: x.cumsum(2).sin() * v[:, None, None],
    ],
)
def test_a_penalty_on_gradients(model):
    def function(x, w, v):
        y = model(x, w, v)
        of_x, of_v = torch.autograd.grad(y.sum(), [x, v], create_graph=True, allow_unused=True)
        penalty = (of_x.square().sum() + 1).sqrt() + of_x.abs().mean()
        if of_v is not None and of_v.requires_grad:
            penalty = penalty + of_v.square().sum()
        return [penalty, y.mean()]

    compare(function, Cut(X), W, V, gathers=True)


def test_a_penalty_after_a_backward_pass_that_keeps_its_graph():
    def run(x):
        loss = F.logsigmoid(x * 2).square().mean()
        loss.backward(create_graph=True)
        penalty = x.grad.square().sum()
        x.grad = None
        penalty.backward()
        return x.grad

    expected = run(X.clone().requires_grad_())
    for gradient in run_ranks(2, lambda domain: run(graticule.shard(X, domain).requires_grad_()).gather()):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


class LargestPlain(TorchDispatchMode):
    """The most bytes that a plain result has of its own."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if type(result) is torch.Tensor:
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: x.mean(),
        lambda x: x.mean((1, 2)).sum(),
        lambda x: x.mean(2, keepdim=True).square().sum(),
        lambda x: F.l1_loss(x, x.detach() + 1),
        lambda x: F.mse_loss(x, x.detach() + 1),
        lambda x: x.var(),
        lambda x: x.sum() + x.norm(),
        lambda x: F.cross_entropy(x, x.argmax(1)),
    ],
)
def test_no_gradient_fills_the_whole_grid_on_a_rank(loss):
    x = torch.randn(2, 4, 64, 32, dtype=torch.float64)

    def body(domain):
        t = graticule.shard(x, domain).requires_grad_()
        with LargestPlain() as seen:
            loss(t).backward()
        assert isinstance(t.grad, DomainTensor)
        return seen.bytes, t.grad.gather()

    expected = x.clone().requires_grad_()
    loss(expected).backward()
    for most, gradient in run_ranks(4, body):
        assert most <= x.numel() * 8 // 4
        torch.testing.assert_close(gradient, expected.grad, rtol=1e-10, atol=1e-14)


def test_a_leaf_made_without_gradients_keeps_its_cut():
    def body(domain):
        with torch.no_grad():
            x = graticule.shard(X, domain, 2).requires_grad_()
            y = graticule.shard(X, domain, 3)
            y.requires_grad = True
        (x * y).sum().backward()
        for t in (x, y):
            assert isinstance(t.grad, DomainTensor) and t.grad.cut_dim == t.cut_dim
            assert torch.equal(t.grad.gather(), X)

    run_ranks(2, body)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: (x * 1).mul_(other=w),
        lambda x, w: torch.mul(input=x, other=w),
        lambda x, w: (x * 1).lerp_(end=w.expand_as(x), weight=0.3),
        lambda x, w: (x * 1).index_add_(2, torch.arange(7), source=w.expand(2, 4, 7, 5)),
    ],
)
def test_plain_arguments_by_name(function):
    compare(function, Cut(X, 2), torch.rand(7, 1, dtype=torch.float64))


def test_a_linear_layer_by_name():
    compare(
        lambda x, w: F.linear(input=x, weight=w),
        Cut(torch.randn(5, 6, dtype=torch.float64), 1),
        torch.randn(4, 6).double(),
    )


def _masked_hook(x):
    h = x * 1

    def mask(gradient):
        gradient = gradient.clone()
        gradient[:, :, 0] = 0
        return gradient

    h.register_hook(mask)
    return h.square()


def _checkpointed(x):
    def block(t):
        z = t * 1
        z[:, :, 0] = 0
        return z * z.roll(1, 2)

    return checkpoint(block, x, use_reentrant=False)


@pytest.mark.parametrize("function", [_masked_hook, _checkpointed])
@pytest.mark.parametrize(
    "differentiate",
    [
        lambda y, x: torch.autograd.grad(y.sum(), x)[0],
        lambda y, x: torch.autograd.grad(y, x, torch.ones_like(y))[0],
        lambda y, x: torch.autograd.grad([y.sum(), y], [x], [None, torch.ones_like(y)])[0],
        lambda y, x: y.backward(torch.ones_like(y)) or x.grad,
        lambda y, x: y[0, 0, 3, 1].backward() or x.grad,
        lambda y, x: torch.autograd.backward([y.sum(), y], [None, torch.ones_like(y)]) or x.grad,
        lambda y, x: y.backward(torch.ones_like(y), inputs=[x]) or x.grad,
        lambda y, x: y.sum().backward(inputs=[x]) or x.grad,
    ],
    ids=[
        "grad",
        "grad of rows",
        "grad of both",
        "backward of rows",
        "backward of one value",
        "backward of both",
        "backward into inputs",
        "backward of a sum into inputs",
    ],
)
def test_what_runs_in_a_backward_pass_is_mapped_however_it_begins(function, differentiate):
    whole = X.clone().requires_grad_()
    expected = differentiate(function(whole), whole)

    def body(domain):
        x = graticule.shard(X, domain, 2).requires_grad_()
        return differentiate(function(x), x).gather()

    for gradient in run_ranks(2, body):
        torch.testing.assert_close(gradient, expected)


def test_gradients_of_what_is_not_used():
    def body(domain):
        x, y = (graticule.shard(X, domain, 2).requires_grad_() for _ in range(2))
        assert torch.autograd.grad(x.sum(), [x, y], allow_unused=True)[1] is None
        assert not torch.autograd.grad(x.sum(), [x, y], materialize_grads=True)[1].gather().any()
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(x.sum(), [y])
        with pytest.raises(RuntimeError, match="does not require grad"):
            torch.autograd.grad(x.sum(), [y.detach()])

    run_ranks(2, body)


def test_hooks_of_a_parameter_that_is_cut_do_not_pile_up():
    def body(domain):
        w = nn.Parameter(graticule.shard(torch.randn(6, 4), domain, 0))
        for _ in range(5):
            (graticule.shard(torch.randn(5, 6), domain, 1) @ w).sum().backward()
        return len(w._backward_hooks)

    assert run_ranks(2, body) == [1, 1]


def test_a_plain_input_of_a_layer_whose_weight_is_cut():
    compare(F.linear, torch.randn(4, 6, dtype=torch.float64), Cut(torch.randn(5, 6, dtype=torch.float64), 1))
