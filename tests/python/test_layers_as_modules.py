"""What is done to a cut layer as to the module that it wraps: calls by name, options, pruning and parametrizations."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from graticule import PeriodicConv2d
from graticule.domain_parallel import (
    DomainParallelConv2d,
    DomainParallelInterpolate,
    convert_to_domain_parallel,
    sync_domain_gradients,
)
from support.ranks import failures, own_rows, relative, run_ranks

RANDOM = threading.RLock()  # threads share the generator


def conv(**options):
    return nn.Conv2d(4, 4, 3, padding=1, **options)


def transposed(**options):
    return nn.ConvTranspose2d(4, 4, 3, stride=2, **options)


def input_rows():
    return torch.randn(1, 4, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def drawn(make):
    """What `make` makes with the same random numbers at every call: not all of these modules can be copied."""
    with RANDOM, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return make()


def uncut_and_cut(make, use, ranks=2):
    """What `use` gives on a module and its input, uncut and cut: outputs, gradients, and what the state dict holds."""

    def run(module, x, domain=None):
        x = x.clone().requires_grad_()
        y = use(module, x)
        y.square().sin().sum().backward()
        if domain is not None:
            sync_domain_gradients(module, domain)
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        return y.detach(), x.grad, gradients, {name: v.clone() for name, v in module.state_dict().items()}

    def body(domain):
        model = convert_to_domain_parallel(nn.Sequential(drawn(lambda: make().double())), domain)
        return run(model[0], own_rows(input_rows(), 2, domain), domain)

    return run(drawn(lambda: make().double()), input_rows()), run_ranks(ranks, body)


def is_exact(make, use, ranks=2):
    (y, grad, gradients, state), parts = uncut_and_cut(make, use, ranks)
    assert relative(torch.cat([p[0] for p in parts], 2), y) < 1e-12
    assert relative(torch.cat([p[1] for p in parts], 2), grad) < 1e-12
    for _, _, cut_gradients, cut_state in parts:
        assert list(cut_gradients) == list(gradients) and list(cut_state) == list(state)
        for found, expected in ((cut_gradients, gradients), (cut_state, state)):
            for name, value in expected.items():
                assert relative(found[name], value) < 1e-11, name


@pytest.mark.parametrize(
    "make,use",
    [
        (conv, lambda m, x: m(input=x)),
        (lambda: nn.GroupNorm(2, 4), lambda m, x: m(input=x)),
        (transposed, lambda m, x: m(input=x)),
        (transposed, lambda m, x: m(input=x, output_size=(20, 14))),
        (transposed, lambda m, x: m(x, output_size=[20, 14])),
        (lambda: PeriodicConv2d(4, 4, 3), lambda m, x: m(x=x)),
    ],
    ids=["conv", "norm", "transposed", "output_size", "output_size alone", "periodic"],
)
def test_arguments_by_name(make, use):
    is_exact(make, use)


def test_an_interpolation_by_name():
    x = input_rows()
    parts = run_ranks(2, lambda d: DomainParallelInterpolate((7, 5), domain=d)(input=own_rows(x, 2, d)))
    assert relative(torch.cat(parts, 2), nn.functional.interpolate(x, (7, 5), mode="bilinear")) < 1e-12


def pre_hook_by_name(m, x):
    m.register_forward_pre_hook(lambda _, args, named: (args, {"input": 2 * named["input"]}), with_kwargs=True)
    return m(input=x)


def test_hooks_see_arguments_by_name():
    is_exact(conv, pre_hook_by_name)

    def hooked():
        made = conv()
        made.register_forward_pre_hook(lambda _, args, named: (args, {"input": 2 * named["input"]}), with_kwargs=True)
        made.register_forward_hook(lambda _, args, y: 3 * y)
        return made

    is_exact(hooked, lambda m, x: m(input=x))


def test_hooks_of_the_module_and_of_its_layer_run_once_and_in_order():
    seen = []
    module = conv()
    module.register_forward_pre_hook(lambda *_: seen.append("first"))
    layer = convert_to_domain_parallel(module, None)
    layer.register_forward_pre_hook(lambda *_: seen.append("second"))
    layer(torch.zeros(1, 4, 5, 5))
    module(torch.zeros(1, 4, 5, 5))
    assert seen == ["first", "second"] * 2


def set_options(**options):
    def use(m, x):
        m(x)
        for name, value in options.items():
            setattr(m, name, value)
        return m(x)

    return use


@pytest.mark.parametrize(
    "make,options",
    [
        (conv, {"stride": 2}),
        (conv, {"stride": (2,)}),
        (conv, {"stride": [2]}),
        (conv, {"dilation": 2}),
        (conv, {"dilation": (2,), "padding": (2,)}),
        (conv, {"padding": 0}),
        (conv, {"padding": (0, 2)}),
        (lambda: conv(padding_mode="reflect"), {"padding": 0, "stride": 2}),
        (transposed, {"stride": 3}),
        (transposed, {"stride": (3,), "dilation": 2}),
        (transposed, {"output_padding": 1}),
        (transposed, {"output_padding": (1,)}),
        (conv, {"padding": "same", "dilation": 3}),
        (conv, {"padding": "valid", "stride": 2}),
    ],
    ids=lambda given: getattr(given, "__name__", str(given)),
)
@pytest.mark.parametrize("check", ["0", "1"])
def test_options_set_as_numbers(make, options, check, monkeypatch):
    monkeypatch.setenv("GRATICULE_CHECK", check)
    is_exact(make, set_options(**options))


def test_options_set_as_numbers_before_conversion():
    def made():
        module = conv()
        module.stride, module.padding = 2, 2
        return module

    is_exact(made, lambda m, x: m(x))


@pytest.mark.parametrize(
    "make,name,value",
    [
        (conv, "stride", 1.5),
        (conv, "padding", "some"),
        (conv, "dilation", (1, None)),
        (conv, "stride", (1, 1, 1)),
        (transposed, "output_padding", 0.5),
        (transposed, "stride", "2"),
    ],
)
def test_options_that_are_none_are_clear_errors(make, name, value):
    def body(domain):
        layer = convert_to_domain_parallel(drawn(make), domain)
        setattr(layer, name, value)
        layer(own_rows(input_rows().float(), 2, domain))

    errors = failures(2, body)
    for rank in (0, 1):
        text = str(errors[rank])
        assert isinstance(errors[rank], ValueError)
        assert "DomainParallelConv" in text and name in text and "got" in text and f"rank {rank} of 2" in text


def other_weight(sizes, **options):
    def made():
        module = nn.Conv2d(4, 4, 3, **options)
        module.weight = nn.Parameter(torch.randn(4, 4, *sizes))
        return module

    return made


@pytest.mark.parametrize("sizes", [(5, 5), (2, 4), (1, 1)])
@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_a_weight_of_another_window_than_the_module_was_made_with(sizes, padding, mode):
    is_exact(other_weight(sizes, padding=padding, padding_mode=mode), lambda m, x: m(x))

    def replaced(m, x):
        m(x)
        with torch.no_grad():
            m.weight = nn.Parameter(torch.ones(4, 4, *sizes, dtype=torch.float64))
        return m(x)

    is_exact(lambda: nn.Conv2d(4, 4, 3, padding=padding, padding_mode=mode), replaced)


def test_a_window_that_grew_is_no_local_convolution():
    def made():
        module = nn.Conv2d(4, 4, 1, padding="same")
        module.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        return module

    is_exact(made, lambda m, x: m(x), ranks=3)


class Exp(nn.Module):
    def forward(self, value):
        return value.exp()


class Halves(nn.Module):
    def forward(self, first, second):
        return torch.cat([first, second])

    def right_inverse(self, value):
        return value[:2].clone(), value[2:].clone()


NORMS = {
    "prune l1": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "prune structured": lambda m: prune.ln_structured(m, "weight", 0.5, n=2, dim=0),
    "prune bias": lambda m: prune.random_unstructured(m, "bias", 2),
    "weight_norm hooks": lambda m: nn.utils.weight_norm(m),
    "spectral_norm hooks": lambda m: nn.utils.spectral_norm(m),
    "weight_norm": lambda m: parametrizations.weight_norm(m),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m),
    "orthogonal": lambda m: parametrizations.orthogonal(m),
    "exp": lambda m: parametrize.register_parametrization(m, "weight", Exp()),
    "two": lambda m: parametrize.register_parametrization(m, "weight", Halves()),
    "exp of both": lambda m: [parametrize.register_parametrization(m, n, Exp()) for n in ("weight", "bias")],
}


def undo(m):
    if parametrize.is_parametrized(m):
        for name in list(m.parametrizations):
            parametrize.remove_parametrizations(m, name)
    elif prune.is_pruned(m):
        prune.remove(m, "bias" if hasattr(m, "bias_orig") else "weight")
    elif hasattr(m, "weight_g"):
        nn.utils.remove_weight_norm(m)
    else:
        nn.utils.remove_spectral_norm(m)


def applied(norm, m):
    return drawn(lambda: NORMS[norm](m))


@pytest.mark.parametrize("make", [conv, transposed], ids=["conv", "transposed"])
@pytest.mark.parametrize("norm", NORMS)
def test_pruning_and_parametrizing_a_layer(norm, make):
    """Transposed convolutions have their outputs in another dimension, which spectral_norm knows by their class."""

    def use(m, x):
        m(x)
        applied(norm, m)
        m(x)
        return m(x)

    is_exact(make, use)


@pytest.mark.parametrize("norm", NORMS)
def test_undoing_it_on_the_layer(norm):
    def later(m, x):
        applied(norm, m)
        m(x)
        undo(m)
        return m(x)

    is_exact(conv, later)

    def before():
        made = conv()
        applied(norm, made)
        return made

    def undone(m, x):
        m(x)
        undo(m)
        return m(x)

    is_exact(before, undone)


@pytest.mark.parametrize("norm", ["exp", "weight_norm hooks", "prune l1"])
def test_pruning_and_parametrizing_a_group_norm_and_what_is_within_a_periodic_convolution(norm):
    if norm != "weight_norm hooks":
        is_exact(lambda: nn.GroupNorm(2, 4), lambda m, x: (applied(norm, m), m(x))[1])
    is_exact(lambda: PeriodicConv2d(4, 4, 3), lambda m, x: (applied(norm, m.conv), m(x))[1])


def test_without_a_domain_a_parametrized_layer_is_the_module():
    for norm in NORMS:
        module, other = (drawn(lambda: conv().double()) for _ in range(2))
        layer = convert_to_domain_parallel(other, None)
        applied(norm, module)
        applied(norm, layer)
        assert torch.equal(layer(input_rows()), module(input_rows())), norm


def test_a_layer_has_what_its_module_has():
    layer = convert_to_domain_parallel(nn.Sequential(conv()), None)[0]
    assert layer.__class__ is type(layer) is DomainParallelConv2d
    assert repr(layer).startswith("DomainParallelConv2d(Conv2d(")
    with torch.no_grad():
        layer.reset_parameters()
    layer.note = 3
    assert layer.wrapped.note == 3
    del layer.note
    assert not hasattr(layer, "note")
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is DomainParallelConv2d and torch.equal(twin.weight, layer.weight)
    with pytest.raises(AttributeError, match="no_such"):
        layer.no_such()
