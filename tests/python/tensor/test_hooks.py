"""Hooks of modules and tensors, custom autograd Functions, selective checkpoints: on cut tensors as on plain ones."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import graticule
from graticule import DomainTensor
from support.ranks import failures
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 4, 7, 5, dtype=torch.float64)
W = torch.randn(4, 4, 3, 3, dtype=torch.float64)
B = torch.randn(4, dtype=torch.float64)


def layer(w, b, **options):
    """A convolution of the given weight and bias, which keep their gradients' way."""
    made = nn.Conv2d(4, 4, 3, padding=1, **options).double()
    del made.weight, made.bias
    made.weight, made.bias = w, b
    return made


def with_pre_hook(made, seen):
    made.register_forward_pre_hook(lambda module, args: (args[0] * 2 + args[0].mean(),))


def with_forward_hook(made, seen):
    made.register_forward_hook(lambda module, args, output: output.sin() + args[0].amax())


def with_keywords(made, seen):
    made.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {"input": kwargs["input"].cos()}), with_kwargs=True
    )


def with_full_backward_hook(made, seen):
    def hook(module, into, out):
        seen.append(out[0].square().mean())
        return (into[0] * (1 + out[0].square().mean()),)

    made.register_full_backward_hook(hook)


def with_full_backward_pre_hook(made, seen):
    made.register_full_backward_pre_hook(lambda module, out: (out[0].flip(2) * out[0].amax(),))


@pytest.mark.parametrize(
    "hook", [with_pre_hook, with_forward_hook, with_full_backward_hook, with_full_backward_pre_hook]
)
def test_module_hooks(hook):
    def function(x, w, b):
        made = layer(w, b)
        hook(made, [])
        return made(x * 1)

    compare(function, Cut(X), W, B)


def test_module_hooks_with_keywords():
    def function(x, w, b):
        made = layer(w, b)
        with_keywords(made, [])
        return made(input=x)

    compare(function, Cut(X), W, B)


def test_hooks_of_tensors():
    def function(x, w, b):
        y = layer(w, b)(x)
        y.register_hook(lambda g: g * g.abs().amax(2, keepdim=True))
        z = y.relu()
        z.register_hook(lambda g: g.roll(1, 2))
        return z.sum(2)

    compare(function, Cut(X), W, B)


class Cube(torch.autograd.Function):
    """As PyTorch's tutorials write them, with saved tensors."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return scale * x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * ctx.scale * x**2, None


class Standardized(torch.autograd.Function):
    """With setup_context, statistics over the cut dimension, and two outputs, one of which has no gradient."""

    @staticmethod
    def forward(x):
        mean = x.mean((2, 3), keepdim=True)
        return x - mean, mean

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g, none):
        assert none is None
        return g - g.mean((2, 3), keepdim=True)


class Doubled(torch.autograd.Function):
    """In place."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, g):
        return g * 2


class Scaled(torch.autograd.Function):
    """A plain parameter, whose gradient is a sum over all rows."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w[:, None, None]

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w[:, None, None], (g * x).sum((0, 2, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: Cube.apply(x, 0.7),
        lambda x: Cube.apply(x.amax((2, 3)), 0.7),
        lambda x: Standardized.apply(x * x),
        lambda x: Doubled.apply(x * 1.5),
        lambda x: Doubled.apply(x[:, 1:] * 1.5).sum(2),
    ],
    ids=["saved", "of a plain value", "setup_context", "in place", "in place, summed"],
)
def test_custom_functions(function):
    compare(function, Cut(X))


def test_a_custom_function_of_a_parameter():
    compare(Scaled.apply, Cut(X), B)


def test_a_custom_function_differentiated_twice():
    def function(x):
        (g,) = torch.autograd.grad(Cube.apply(x, 0.7).sum(), x, create_graph=True)
        return g * g

    compare(function, Cut(X))


def test_selective_checkpoints():
    def policy(context, op, *args, **kwargs):
        keep = op in (torch.ops.aten.convolution.default, torch.ops.aten.mean.dim)
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    def function(x, w, b):
        def block(t):
            t = layer(w, b)(t)
            return (t * t.mean((2, 3), keepdim=True)).tanh()

        contexts = functools.partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(block, x, use_reentrant=False, context_fn=contexts)

    compare(function, Cut(X), W, B)


def test_saved_tensors_hooks():
    def function(x, w, b):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t):
            return layer(w, b)(x).sigmoid()

    compare(function, Cut(X), W, B)


@pytest.mark.parametrize("place", ["tensor", "module"])
def test_an_error_in_a_hook_is_one_on_every_rank(place):
    """One rank's hook alone fails; the others wait for it in the exchange of a convolution's gradient, and are told."""

    def body(domain):
        x = graticule.shard(X, domain).requires_grad_()
        made = nn.Conv2d(4, 4, 3, padding=1).double()
        if place == "module":
            graticule.parallelize(made, domain)
        y = made(x)

        def hook(*_):
            if domain.rank == 1:
                raise ArithmeticError("mine")

        assert isinstance(y, DomainTensor)
        y.register_hook(hook) if place == "tensor" else made.register_full_backward_hook(hook)
        made(y).sum().backward()

    found = failures(3, body)
    assert set(found) == {0, 1, 2}
    assert isinstance(found[1], ArithmeticError)
