"""Uses that a layer or convert could get silently wrong: each is exact, or a clear error."""

import copy
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import graticule
from graticule import PeriodicConv2d, fold_rows, gather_rows
from graticule.domain_parallel import (
    DomainParallelConv2d,
    DomainParallelConvTranspose2d,
    DomainParallelGroupNorm,
    DomainParallelInterpolate,
    HaloExchange,
    convert_to_domain_parallel,
    gather_tensor,
    shard_tensor,
    sync_domain_gradients,
)
from support.ranks import RanksFailedError, balanced, relative, run_ranks


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=self.padding)


class OtherConvForward(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 2 * weight, bias)


class OtherPeriodic(PeriodicConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def patched():
    conv = nn.Conv2d(2, 2, 3)
    conv.forward = lambda x: 2 * x
    return conv


def own_rows(x, domain, dim=2):
    offsets = balanced(x.shape[dim], domain.size)
    return x.narrow(dim, offsets[domain.rank], offsets[domain.rank + 1] - offsets[domain.rank]).clone()


@pytest.mark.parametrize(
    "module", [StandardisedConv(2, 2, 3), OtherConvForward(2, 2, 3), patched(), OtherPeriodic(2, 2, 3)], ids=repr
)
def test_a_module_with_a_forward_of_its_own_is_not_converted(module):
    with pytest.raises(ValueError, match="mix rows"):
        convert_to_domain_parallel(nn.Sequential(module), None)
    with pytest.warns(UserWarning, match="mix rows"):
        model = convert_to_domain_parallel(nn.Sequential(module), None, strict=False)
    assert model[0] is module
    if isinstance(module, nn.Conv2d):
        with pytest.raises(TypeError, match="forward"):
            DomainParallelConv2d(module)


def test_a_compiled_module_is_cut_all_the_same():
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    x = torch.randn(1, 2, 8, 4).double()
    serial = conv(x)
    conv.compile(backend="eager")

    def body(domain):
        return DomainParallelConv2d(conv, domain=domain)(own_rows(x, domain))

    assert relative(torch.cat(run_ranks(2, body), 2), serial) < 1e-12


def test_a_cut_met_before_is_not_mistaken_for_another():
    """Shards of (4, 4), then (5, 5), then (4, 5) rows: every rank has seen its number of rows before."""
    layer_of = {
        "conv": lambda domain: DomainParallelConv2d(conv, domain=domain),
        "nearest": lambda domain: DomainParallelInterpolate((20, 4), "nearest", domain=domain),
    }
    conv = nn.Conv2d(1, 1, 3, padding=1).double()
    serial = {"conv": conv, "nearest": lambda x: F.interpolate(x, (20, 4))}
    for name, make in layer_of.items():
        inputs = [torch.randn(1, 1, sum(cut), 4).double() for cut in ((4, 4), (5, 5), (4, 5), (4, 4))]

        def body(domain, make=make, inputs=inputs):
            layer = make(domain)
            results = []
            for x, cut in zip(inputs, ((4, 4), (5, 5), (4, 5), (4, 4)), strict=True):
                results.append(layer(x.narrow(2, domain.rank * cut[0], cut[domain.rank])))
            return results

        for x, *parts in zip(inputs, *run_ranks(2, body), strict=True):
            assert relative(torch.cat(parts, 2), serial[name](x)) < 1e-12, name


@pytest.mark.parametrize(
    "module",
    [nn.Softmax(-1), nn.GLU(-1), nn.Linear(4, 4), nn.LayerNorm(4), type("Mine", (nn.Softmax,), {})(-1)],
    ids=["Softmax", "GLU", "Linear", "LayerNorm", "subclass"],
)
def test_what_mixes_the_last_dimension_is_refused_where_that_is_cut(module):
    with pytest.raises(ValueError, match="mix rows"):
        convert_to_domain_parallel(nn.Sequential(module), None, shard_dim=-1)
    convert_to_domain_parallel(nn.Sequential(nn.Conv2d(1, 1, 1), module), None, shard_dim=-2)


@pytest.mark.parametrize(
    "module",
    [
        type("Rows", (nn.Softmax,), {})(-2),
        type("Halves", (nn.GLU,), {})(-2),
        type("Norm", (nn.LayerNorm,), {})([2, 4, 4]),
    ],
    ids=["Softmax", "GLU", "LayerNorm"],
)
def test_a_subclass_is_judged_as_its_base(module):
    with pytest.raises(ValueError, match="mix rows"):
        convert_to_domain_parallel(nn.Sequential(module), None)


def test_a_scripted_module_is_refused():
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(2, 2, 3)))
    with pytest.raises(ValueError, match="mix rows"):
        convert_to_domain_parallel(nn.Sequential(scripted), None)


def test_local_convolutions_take_shards_of_no_rows():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, (1, 3), padding=(0, 1)),
        nn.ConvTranspose2d(4, 4, 1),
        nn.Conv2d(4, 2, 3, padding=1),
    ).double()
    x = torch.randn(1, 2, 5, 4).double().requires_grad_()
    y = model(x)
    gradient = torch.randn_like(y)
    y.backward(gradient)

    def body(domain):
        own = copy.deepcopy(model)
        own.zero_grad()
        cut = convert_to_domain_parallel(own, domain)
        assert type(cut[1]) is nn.Conv2d
        rows = own_rows(x.detach(), domain).requires_grad_()
        result = cut(rows)
        result.backward(own_rows(gradient, domain))
        sync_domain_gradients(cut, domain)
        return result.detach(), rows.grad, [p.grad for p in cut.parameters()]

    parts = run_ranks(5, body)
    assert relative(torch.cat([p[0] for p in parts], 2), y) < 1e-12
    assert relative(torch.cat([p[1] for p in parts], 2), x.grad) < 1e-12
    for _, _, gradients in parts:
        for cut, parameter in zip(gradients, model.parameters(), strict=True):
            assert relative(cut, parameter.grad) < 1e-12


def test_group_norm_without_a_bias():
    norm = nn.GroupNorm(2, 4, bias=False).double()
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 4, 7, 3).double().requires_grad_()
    norm(x).square().sum().backward()

    def body(domain):
        own = copy.deepcopy(norm)
        own.zero_grad()
        rows = own_rows(x.detach(), domain).requires_grad_()
        DomainParallelGroupNorm(own, domain=domain)(rows).square().sum().backward()
        return rows.grad, own.weight.grad

    parts = run_ranks(3, body)
    assert relative(torch.cat([p[0] for p in parts], 2), x.grad) < 1e-12
    assert relative(sum(p[1] for p in parts), norm.weight.grad) < 1e-12


def test_complex_parameters_are_summed_whole():
    def body(domain):
        module = nn.Module()
        module.weight = nn.Parameter(torch.ones(3, dtype=torch.complex128))
        module.scale = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        (module.weight * (1 + domain.rank * 1j)).sum().real.backward()
        part = module.weight.grad.clone()
        if domain.rank == 0:
            (module.scale.sum() * 1j).real.backward()
        sync_domain_gradients(module, domain)
        return part, module.weight.grad, module.scale.grad

    parts = run_ranks(2, body)
    for _, weight, scale in parts:
        assert torch.equal(weight, parts[0][0] + parts[1][0])
        assert weight.imag.abs().max() > 0
        assert torch.equal(scale, torch.full((2,), -1j, dtype=torch.complex64))


def test_parameters_of_other_shapes_are_not_summed():
    def body(domain):
        module = nn.Module()
        module.weight = nn.Parameter(torch.ones(*((2, 3) if domain.rank == 0 else (3, 2))))
        module.weight.sum().backward()
        sync_domain_gradients(module, domain)

    with pytest.raises(RanksFailedError) as failure:
        run_ranks(2, body)
    assert len(failure.value.errors) == 2


def test_sparse_gradients_are_refused():
    def body(domain):
        embedding = nn.Embedding(4, 2, sparse=True)
        embedding(torch.tensor([1])).sum().backward()
        sync_domain_gradients(embedding, domain)

    with pytest.raises(RanksFailedError, match="dense gradients"):
        run_ranks(2, body)


def test_a_dimension_that_is_not_there_is_an_index_error():
    def body(domain):
        x = torch.randn(1, 2, 4, 4)
        for call in (
            lambda: gather_rows(x, domain, [0, 4, 8], [0, 4], [4, 8], dim=6),
            lambda: fold_rows(x, domain, [0, 4, 8], [0, 4], [4, 8], dim=-5),
            lambda: gather_rows(x, domain, [0, 4, 8], [0, 4], [4, 8], lon_dim=4),
            lambda: gather_tensor(x, 6, domain),
            lambda: HaloExchange(1, 6, domain=domain)(x),
        ):
            with pytest.raises(IndexError, match="dimension"):
                call()

    run_ranks(2, body)


@pytest.mark.parametrize("begins,ends", [([5, 4], [3, 8]), ([-(10**12), 4], [4, 8]), ([0, 4], [4, 2**62])])
def test_rows_that_nobody_can_want_are_an_error(begins, ends):
    def body(domain):
        with pytest.raises(ValueError, match="gather_rows: expected"):
            gather_rows(torch.zeros(1, 1, 4, 2), domain, [0, 4, 8], begins, ends, "zeros")

    run_ranks(2, body)


def test_a_shard_is_memory_of_its_own():
    def body(domain):
        whole = torch.zeros(1, 1, 6, 2)
        shard_tensor(whole, 2, domain).add_(1)
        assert whole.abs().max() == 0

    run_ranks(2, body)


def test_unbatched_output_size_with_channels():
    conv = nn.ConvTranspose2d(2, 3, 3, stride=2).double()
    x = torch.randn(2, 5, 4).double()
    serial = conv(x, output_size=[3, 12, 10])

    def body(domain):
        return DomainParallelConvTranspose2d(conv, domain=domain)(own_rows(x, domain, 1), [3, 12, 10])

    assert relative(torch.cat(run_ranks(2, body), 1), serial) < 1e-12


def test_rows_of_a_model_that_holds_a_cut_interpolation():
    model = nn.Sequential(
        nn.Conv2d(2, 2, 3, stride=2, padding=1), DomainParallelInterpolate((9, 4)), nn.Conv2d(2, 2, 3)
    )
    model = model.double()
    x = torch.randn(1, 2, 9, 6).double()
    serial = model(x)

    def body(domain):
        own = copy.deepcopy(model)
        own[1] = DomainParallelInterpolate((9, 4), domain=domain)
        return convert_to_domain_parallel(own, domain, rows=9)(own_rows(x, domain))

    assert relative(torch.cat(run_ranks(3, body), 2), serial) < 1e-12


def test_rows_for_a_module_that_is_not_there():
    with pytest.raises(ValueError, match="'2'"):
        convert_to_domain_parallel(nn.Sequential(nn.Conv2d(2, 2, 3)), None, rows={"2": 9})


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "0"])
def test_a_timeout_that_is_no_time_is_an_error(monkeypatch, text):
    def body(domain):
        monkeypatch.setenv("GRATICULE_TIMEOUT", text)
        with pytest.raises(ValueError, match="GRATICULE_TIMEOUT"):
            gather_tensor(torch.zeros(1, 1, 2, 2), 2, domain)

    run_ranks(2, body)


def test_an_endless_timeout_is_a_long_one(monkeypatch):
    monkeypatch.setenv("GRATICULE_TIMEOUT", "inf")
    assert run_ranks(2, lambda domain: gather_tensor(torch.zeros(1, 1, 2, 2), 2, domain).shape[2]) == [4, 4]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_runs_every_exchange_again_on_every_rank(reentrant):
    """With 3 rows on 2 ranks one of them interpolates a single row, by other local steps than the other."""
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 3, padding=1).double()
    options = {"mode": "bilinear", "antialias": True}
    x = torch.randn(1, 1, 3, 8).double().requires_grad_()
    F.interpolate(conv(x), (2, 4), **options).square().sum().backward()

    def body(domain):
        own = copy.deepcopy(conv)
        own.zero_grad()
        cut = DomainParallelConv2d(own, domain=domain)
        smaller = DomainParallelInterpolate((2, 4), domain=domain, **options)
        rows = own_rows(x.detach(), domain).requires_grad_()
        checkpoint(lambda t: smaller(cut(t)), rows, use_reentrant=reentrant).square().sum().backward()
        return rows.grad

    assert relative(torch.cat(run_ranks(2, body), 2), x.grad) < 1e-12


def test_a_layer_of_a_domain_can_be_copied_and_pickled():
    def body(domain):
        model = convert_to_domain_parallel(
            nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1), DomainParallelInterpolate((5, 4))), domain
        )
        x = torch.randn(1, 2, 4, 4)
        expected = model[:2](x)
        return all(
            torch.equal(twin[:2](x), expected) for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
        )

    assert run_ranks(2, body) == [True, True]


def test_a_changed_convolution_within_a_periodic_one_is_refused():
    module = PeriodicConv2d(2, 2, 3)
    module.conv = StandardisedConv(2, 2, 3)
    with pytest.raises((TypeError, ValueError), match="StandardisedConv"):
        convert_to_domain_parallel(nn.Sequential(module), None)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (nn.GroupNorm(2, 4), {"eps": 0.5}),
        (nn.Conv2d(4, 4, 3, padding=1), {"stride": (2, 2)}),
        (nn.Conv2d(4, 4, 3, padding=1), {"padding": (0, 2), "dilation": (2, 1)}),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), {"padding": (0, 1)}),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), {"stride": (2, 1)}),
        (PeriodicConv2d(4, 4, 3), {"padding": 2}),
    ],
)
def test_options_set_on_a_layer_hold(module, options):
    """As on the module that it wraps, where they can be read too."""
    module = copy.deepcopy(module).double()
    x = torch.randn(1, 4, 9, 6, dtype=torch.float64)

    def body(domain):
        model = convert_to_domain_parallel(nn.Sequential(copy.deepcopy(module)), domain)
        for name, value in options.items():
            setattr(model[0], name, value)
            assert getattr(model[0], name) == value
        return model(own_rows(x, domain))

    parts = run_ranks(2, body)
    for name, value in options.items():
        setattr(module, name, value)
    assert relative(torch.cat(parts, 2), module(x)) < 1e-12


def test_a_parametrized_module_is_judged_by_its_base():
    class Exp(nn.Module):
        def forward(self, weight):
            return weight.exp()

    norm = nn.BatchNorm2d(2)
    nn.utils.parametrize.register_parametrization(norm, "weight", Exp())
    with pytest.raises(ValueError, match="mix rows"):
        convert_to_domain_parallel(nn.Sequential(norm), None)
    linear = nn.Linear(2, 2)
    nn.utils.parametrize.register_parametrization(linear, "weight", Exp())
    convert_to_domain_parallel(nn.Sequential(nn.Conv2d(1, 1, 1), linear), None)


def test_a_pickled_layer_has_met_no_rows():
    def body(domain):
        layer = DomainParallelConv2d(nn.Conv2d(1, 1, 3, padding=1), domain=domain)
        layer(own_rows(torch.randn(1, 1, 9, 4), domain))
        assert layer._cuts._seen
        return pickle.loads(pickle.dumps(layer))._cuts._seen

    assert run_ranks(2, body) == [{}, {}]


def test_a_norm_whose_input_needs_a_gradient_on_one_rank():
    x = torch.randn(1, 4, 8, 3, dtype=torch.float64)
    whole = x.clone().requires_grad_()
    F.group_norm(whole, 2).square().sin().sum().backward()

    def body(domain):
        mine = own_rows(x, domain).requires_grad_(domain.rank == 1)
        DomainParallelGroupNorm(nn.GroupNorm(2, 4).double(), domain=domain)(mine).square().sin().sum().backward()
        return mine.grad

    assert relative(run_ranks(2, body)[1], whole.grad[:, :, 4:]) < 1e-10


def test_sizes_that_are_no_whole_numbers_are_refused():
    def body(domain):
        with pytest.raises(TypeError, match="whole numbers"):
            DomainParallelInterpolate((7.9, 5.0), domain=domain)(torch.randn(1, 1, 4, 4))

    run_ranks(2, body)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squares_that_overflow_in_a_norm_give_nothing_that_looks_sound(memory_format, dtype):
    """The uncut layer gives NaN. In channels_last the cut one's sums are wide enough for the true values."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 4).to(dtype)
    nn.init.normal_(norm.bias)
    x = (1e20 + 1e19 * torch.randn(1, 4, 8, 8)).to(dtype).contiguous(memory_format=memory_format)
    assert norm(x).isnan().all()
    parts = run_ranks(2, lambda domain: DomainParallelGroupNorm(norm, domain=domain)(own_rows(x, domain)))
    y = torch.cat(parts, 2).detach().double()
    if memory_format is torch.channels_last:
        assert relative(y, copy.deepcopy(norm).double()(x.double()).detach()) < (
            1e-5 if dtype is torch.float32 else 1e-2
        )
    else:
        assert y.isnan().all()


def test_squares_that_overflow_in_a_batch_norm_give_the_bias_as_uncut():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.bias)
    x = 1e20 + 1e19 * torch.randn(2, 4, 8, 8)
    expected = norm(x)
    assert torch.equal(expected, norm.bias.view(1, 4, 1, 1).expand_as(x))
    for y in run_ranks(2, lambda domain: norm(graticule.shard(x, domain, 2)).gather()):
        assert torch.equal(y, expected)


def test_threads_that_use_a_domain_at_once_are_an_error():
    """Their messages look alike: both call the same layer."""
    conv = nn.Conv2d(2, 2, 3, padding=1)

    def body(domain):
        layer = DomainParallelConv2d(conv, domain=domain, rows=8)
        errors = []

        def call():
            try:
                with torch.no_grad():
                    for _ in range(2000):
                        layer(own_rows(torch.randn(1, 2, 8, 4), domain))
            except RuntimeError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors

    errors = run_ranks(2, body)
    assert all(errors), errors
    assert any("two threads of this process use the domain at once" in error for error in sum(errors, [])), errors
