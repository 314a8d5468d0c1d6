"""convert_to_domain_parallel: whole models, their state dicts, and what it refuses."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from graticule import Domain, PeriodicConv2d
from graticule.domain_parallel import (
    DomainParallelConv2d,
    DomainParallelConvTranspose2d,
    DomainParallelGroupNorm,
    DomainParallelInterpolate,
    DomainParallelUpsample,
    convert_to_domain_parallel,
    layers,
    sync_domain_gradients,
)
from graticule.domain_parallel.borrowed import BorrowingLayer
from support.ranks import failures, own_rows, relative, run_ranks


def double_output(module, given, output):
    return output * 2


def halve_input(module, given):
    return (given[0] / 2,)


class OwnUpsample(nn.Upsample):
    def forward(self, input):
        return 2 * super().forward(input)


class Flat(nn.Module):
    """Something of a model's own, with layers of one and three spatial dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 4, 3, padding=1)
        self.up1 = nn.ConvTranspose1d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv3d(2, 2, 3, padding=1)
        self.up3 = nn.ConvTranspose3d(2, 2, 3, padding=1)

    def forward(self, x):
        n, c, h, w = x.shape
        columns = x.permute(0, 3, 1, 2).reshape(n * w, c, h)
        x = self.up1(self.conv1(columns)).reshape(n, w, c, h).permute(0, 2, 3, 1)
        levels = x.reshape(n, 2, 2, *x.shape[2:])
        return self.up3(self.conv3(levels)).flatten(1, 2)


class Model(nn.Module):
    """Every kind of layer, with spectral norm, a frozen parameter, hooks and a module that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, (4, 3), (2, 1), 1))
        self.flat = Flat()
        self.shared = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.again = self.shared
        self.norm = nn.GroupNorm(2, 4)
        self.periodic = PeriodicConv2d(4, 4, 3)
        self.point = nn.Conv2d(4, 4, 1)
        self.up = nn.ConvTranspose2d(4, 3, (4, 3), (2, 1), 1)
        self.dropout = nn.Dropout(0.5)
        self.norm.bias.requires_grad_(False)
        self.periodic.register_forward_hook(double_output)
        self.up.register_forward_pre_hook(halve_input)

    def forward(self, x):
        x = self.flat(self.stem(x))
        x = self.again(torch.relu(self.shared(x)))
        x = self.point(self.periodic(torch.tanh(self.norm(x))))
        return self.up(x)


torch.manual_seed(0)
TEMPLATE = Model().double()
TWO_CONVS = nn.Sequential(nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.Conv2d(2, 2, 3, padding=1)).double()


def make(dtype=torch.float64):
    """The same model at every call: ranks as threads share torch's random numbers, so that none may draw its own."""
    return copy.deepcopy(TEMPLATE).to(dtype)


ROWS = 19
X = torch.randn(2, 2, 3, ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def steps(model, inputs, weights):
    """Two accumulation steps: outputs of both."""
    outputs = []
    for x, w in zip(inputs, weights, strict=True):
        y = model(x)
        (y * w).sum().backward()
        outputs.append(y.detach())
    return outputs


def serial_answer():
    model = make()
    with torch.no_grad():
        shape = copy.deepcopy(model)(X[0]).shape
    weights = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    outputs = steps(model, X, weights)
    return model, weights, outputs


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("rows", [None, ROWS])
def test_a_model_of_every_kind_is_exact(ranks, rows):
    serial, weights, expected = serial_answer()

    def body(domain):
        model = convert_to_domain_parallel(make(), domain, rows=rows)
        outputs = steps(model, [own_rows(x, 2, domain) for x in X], [own_rows(w, 2, domain) for w in weights])
        sync_domain_gradients(model, domain)
        return outputs, {name: p.grad for name, p in model.named_parameters()}, model.state_dict()

    parts = run_ranks(ranks, body)
    for i, y in enumerate(expected):
        assert relative(torch.cat([outputs[i] for outputs, _, _ in parts], 2), y) < 1e-12
    for _, gradients, state in parts:
        for name, p in serial.named_parameters():
            if p.grad is None:
                assert gradients[name] is None, name
            else:
                assert relative(gradients[name], p.grad) < 1e-11, name
        # What spectral normalisation keeps moved alike.
        for name, value in serial.state_dict().items():
            assert relative(state[name], value) < 1e-12, name


def converted_alone(model, **options):
    """Converted for the process-wide manager, of which there is none here: every layer is then the plain one."""
    return convert_to_domain_parallel(model, None, **options)


def test_the_model_is_changed_in_place_and_its_names_stay():
    plain, model = make(), make()
    result = converted_alone(model)
    assert result is model
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert isinstance(model.shared, DomainParallelConv2d)
    assert model.shared is model.again
    assert isinstance(model.norm, DomainParallelGroupNorm)
    assert isinstance(model.up, DomainParallelConvTranspose2d)
    assert isinstance(model.periodic, layers.DomainParallelPeriodicConv2d)
    assert isinstance(model.flat.conv1, layers.DomainParallelConv1d)
    assert isinstance(model.flat.up1, layers.DomainParallelConvTranspose1d)
    assert isinstance(model.flat.conv3, layers.DomainParallelConv3d)
    assert isinstance(model.flat.up3, layers.DomainParallelConvTranspose3d)
    assert isinstance(model.stem, DomainParallelConv2d)
    assert type(model.point) is nn.Conv2d
    assert not model.norm.bias.requires_grad


def test_state_dicts_go_both_ways():
    torch.manual_seed(5)
    other = Model().double()
    model = converted_alone(make())
    model.load_state_dict(other.state_dict())
    plain = make()
    plain.load_state_dict(model.state_dict())
    for name, value in other.state_dict().items():
        assert torch.equal(plain.state_dict()[name], value)
        assert torch.equal(model.state_dict()[name], value)


def test_a_model_of_one_layer_is_the_layer():
    conv = nn.Conv2d(3, 3, 3)
    layer = converted_alone(conv)
    assert isinstance(layer, DomainParallelConv2d) and layer.wrapped is conv and layer.conv is conv
    assert layer.weight is conv.weight and layer.bias is conv.bias
    point = nn.Conv2d(3, 3, 1)
    assert converted_alone(point) is point


@pytest.mark.parametrize("rows", [6, 1])
def test_a_layer_that_stays_takes_its_input_by_name(rows):
    """One row leaves a rank without."""
    point = nn.Conv2d(3, 4, 1)
    x = torch.randn(1, 3, rows, 5)
    parts = run_ranks(2, lambda domain: convert_to_domain_parallel(point, domain)(input=own_rows(x, 2, domain)))
    assert relative(torch.cat(parts, 2), point(x)) < 1e-6


@pytest.mark.parametrize("change", ["stride", "weight"])
def test_a_layer_that_stays_may_not_mix_rows_later(change):
    def body(domain):
        point = convert_to_domain_parallel(nn.Conv2d(3, 3, 1, padding="valid"), domain)
        x = torch.randn(1, 3, 4, 5)
        point(x)
        if change == "stride":
            point.stride = (2, 1)
        else:
            point.weight = nn.Parameter(torch.randn(3, 3, 3, 1))
        point(x)

    errors = failures(2, body)
    assert sorted(errors) == [0, 1]
    assert all("convert the model again" in str(error) for error in errors.values())


def test_twice_is_once():
    model = converted_alone(make())
    modules = [m for m in model.modules() if isinstance(m, BorrowingLayer)]
    assert converted_alone(model) is model
    assert [m for m in model.modules() if isinstance(m, BorrowingLayer)] == modules


@pytest.mark.parametrize(
    "conv,stays",
    [
        (nn.Conv2d(2, 2, 1), True),
        (nn.Conv2d(2, 2, (1, 3), padding=(0, 1)), True),
        (nn.Conv2d(2, 2, 1, stride=(1, 2)), True),
        (nn.Conv2d(2, 2, 1, padding="same"), True),
        (nn.Conv2d(2, 2, (1, 3), padding="same"), True),
        (nn.ConvTranspose2d(2, 2, 1), True),
        (nn.Conv2d(2, 2, (3, 1)), False),
        (nn.Conv2d(2, 2, 1, stride=2), False),
        (nn.Conv2d(2, 2, 1, padding=1), False),
        (nn.ConvTranspose2d(2, 2, 1, stride=2, output_padding=1), False),
        (nn.Conv1d(2, 2, 1), True),
        (nn.Conv1d(2, 2, 3), False),
        (nn.Conv3d(2, 2, (3, 1, 3)), True),
        (nn.Conv3d(2, 2, (1, 3, 1)), False),
    ],
    ids=str,
)
def test_what_is_local_on_any_cut_stays(conv, stays):
    assert (converted_alone(conv) is conv) == stays


def test_subclasses_are_what_their_base_is():
    class Own(nn.Conv2d):
        pass

    assert isinstance(converted_alone(Own(2, 2, 3)), DomainParallelConv2d)


def test_custom_converters_come_first():
    class Blur(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(2, 2, 3)

    class Sharp(Blur):
        pass

    model = nn.Sequential(Sharp(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3))
    seen = []

    def convert(module):
        seen.append(type(module))
        return nn.Identity()

    converted_alone(model, custom_converters={Blur: convert, nn.MaxPool2d: convert})
    assert seen == [Sharp, nn.MaxPool2d]
    assert [type(m) for m in model] == [nn.Identity, nn.Identity, DomainParallelConv2d]


def test_strict_lists_every_module_and_changes_nothing():
    model = nn.ModuleDict(
        {
            "down": nn.Sequential(nn.Conv2d(2, 2, 3), nn.MaxPool2d(2), nn.AvgPool2d(2)),
            "norm": nn.BatchNorm2d(2),
            "up": OwnUpsample(scale_factor=2),
            "attention": nn.MultiheadAttention(4, 2),
            "pad": nn.ReflectionPad2d(1),
            "layer_norm": nn.LayerNorm([2, 4, 4]),
            "fine": nn.LayerNorm(4),
            "act": nn.GELU(),
            "softmax": nn.Softmax(dim=1),
            "rows": nn.Softmax(dim=2),
            "flat": nn.Flatten(),
            "rnn": nn.LSTM(2, 2),
        }
    )
    with pytest.raises(ValueError) as raised:
        converted_alone(model)
    named = {
        "down.1 (MaxPool2d)",
        "down.2 (AvgPool2d)",
        "norm (BatchNorm2d)",
        "up (OwnUpsample)",
        "attention (MultiheadAttention)",
        "pad (ReflectionPad2d)",
        "layer_norm (LayerNorm)",
        "rows (Softmax)",
        "flat (Flatten)",
        "rnn (LSTM)",
    }
    for name in named:
        assert name in str(raised.value)
    for name in ("fine", "act", "softmax ("):
        assert name not in str(raised.value)
    assert type(model["down"][0]) is nn.Conv2d
    with pytest.warns(UserWarning, match="MaxPool2d"):
        converted_alone(model, strict=False)
    assert isinstance(model["down"][0], DomainParallelConv2d)
    assert type(model["down"][1]) is nn.MaxPool2d


def beside(module, spatial):
    """A module in a model of convolutions of so many spatial dimensions, or of none that tells."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    return nn.Sequential(*([conv[spatial](4, 4, 3, padding=1)] if spatial else []), module)


# A module, the spatial dimensions of the convolutions beside it, and the cut.
ALONG_THE_CUT = [
    (nn.Softmax(-1), 1, -2),
    (nn.Softmax(2), 1, -2),
    (nn.LogSoftmax(-1), 1, -1),
    (nn.Softmin(-1), 1, -3),
    (nn.GLU(), 1, -2),
    (nn.Linear(12, 12), 1, -2),
    (nn.LayerNorm(12), 1, -2),
    (nn.RMSNorm(12), 1, -2),
    (nn.Softmax(-1), None, -2),
    (nn.Linear(4, 4), None, -2),
    (nn.Softmax(2), None, -2),
    (nn.Softmax(-1), 2, -1),
    (nn.Softmax(3), 2, -1),
    (nn.GLU(-2), 2, -2),
    (nn.LayerNorm([12, 6]), 2, -2),
    (nn.Softmax(-3), 3, -3),
    (nn.Softmax(3), 3, -2),
]
BESIDE_THE_CUT = [
    (nn.Softmax(1), 1, -2),
    (nn.Softmax(-2), 1, -2),
    (nn.Softmax(1), None, -2),
    (nn.Softmax(1), 2, -2),
    (nn.Softmax(-3), 2, -2),
    (nn.Softmax(-1), 2, -2),
    (nn.Softmax(3), 2, -2),
    (nn.GLU(-1), 2, -2),
    (nn.Linear(6, 6), 2, -2),
    (nn.LayerNorm(6), 2, -2),
    (nn.Softmax(-3), 3, -2),
    (nn.Softmax(-2), 3, -1),
    (nn.LayerNorm([12, 6]), 3, -3),
    (nn.LocalResponseNorm(3), 1, -2),
    (nn.ChannelShuffle(2), 1, -2),
    (nn.Softmax2d(), 2, -2),
]


@pytest.mark.parametrize("module,spatial,shard_dim", ALONG_THE_CUT, ids=str)
def test_what_acts_along_the_cut_of_any_tensor_of_the_model_is_refused(module, spatial, shard_dim):
    with pytest.raises(ValueError, match=r"may mix rows.*graticule\.shard"):
        converted_alone(beside(module, spatial), shard_dim=shard_dim)


@pytest.mark.parametrize("module,spatial,shard_dim", BESIDE_THE_CUT, ids=str)
def test_what_acts_beside_the_cut_stays_and_is_exact(module, spatial, shard_dim):
    model = beside(module, spatial).double()
    if spatial is None:
        assert converted_alone(model, shard_dim=shard_dim)[0] is module
        return
    sizes = {1: (12,), 2: (12, 6), 3: (4, 12, 6)}[spatial]
    x = torch.randn(2, 4, *sizes, dtype=torch.float64)
    dim = 2 if spatial == 1 else x.dim() + shard_dim
    expected = model(x).detach()

    def body(domain):
        cut = convert_to_domain_parallel(copy.deepcopy(model), domain, shard_dim=shard_dim)
        return cut(own_rows(x, dim, domain)).detach()

    assert relative(torch.cat(run_ranks(2, body), dim), expected) < 1e-12


@pytest.mark.parametrize("shard_dim", [0, 1, 2, 3, -4])
def test_a_cut_that_is_not_counted_from_the_end_is_refused(shard_dim):
    with pytest.raises(ValueError, match=f"expected a shard_dim of -1, -2 or -3.*got {shard_dim}"):
        converted_alone(nn.Sequential(nn.Conv3d(2, 2, 3), nn.Softmax(-3)), shard_dim=shard_dim)


@pytest.mark.parametrize(
    "module", [nn.Softmax(1), nn.GLU(1), nn.LocalResponseNorm(3), nn.ChannelShuffle(2)], ids=lambda m: type(m).__name__
)
def test_rows_of_a_tensor_without_a_batch_are_not_taken_for_channels(module):
    x = torch.randn(4, 12, 6)

    def body(domain):
        model = convert_to_domain_parallel(copy.deepcopy(beside(module, 2)), domain)
        model = copy.deepcopy(convert_to_domain_parallel(model, domain))
        assert len(model[1]._forward_pre_hooks) == 1
        model(own_rows(x, 1, domain))

    errors = failures(2, body)
    assert sorted(errors) == [0, 1]
    for error in errors.values():
        assert isinstance(error, ValueError)
        assert f"{type(module).__name__}: expected a batched input" in str(error) and "3 dimensions" in str(error)


def test_without_a_domain_a_tensor_without_a_batch_is_taken():
    model = beside(nn.Softmax(1), 2)
    x = torch.randn(4, 12, 6)
    expected = model(x)
    assert torch.equal(converted_alone(model)(x), expected)


def test_a_module_that_never_acts_along_the_cut_is_left_by_its_converter():
    norm = nn.LayerNorm(4)
    model = converted_alone(beside(norm, 1), custom_converters={nn.LayerNorm: lambda module: module})
    assert model[1] is norm


def test_rows_by_name():
    """Layers whose rows are given exchange no sizes."""

    def body(domain):
        model = copy.deepcopy(TWO_CONVS)
        convert_to_domain_parallel(model, domain, rows={"0": ROWS, "1": 10})
        assert [layer._cuts.rows for layer in model] == [ROWS, 10]
        y = model(own_rows(X[0][:, :2], 2, domain))
        assert not model[0]._cuts._seen and not model[1]._cuts._seen
        return y.detach()

    assert relative(torch.cat(run_ranks(3, body), 2), TWO_CONVS(X[0][:, :2]).detach()) < 1e-12


def test_rows_are_traced_once_and_without_messages():
    def body(domain):
        model = convert_to_domain_parallel(make(), domain, rows=ROWS)
        model(own_rows(X[0], 2, domain))
        traced = {n: m._cuts.rows for n, m in model.named_modules() if isinstance(m, BorrowingLayer)}
        seen = [m._cuts._seen for m in model.modules() if isinstance(m, BorrowingLayer)]
        return traced, seen

    for traced, seen in run_ranks(3, body):
        assert traced["stem"] == ROWS and traced["norm"] == 9 and traced["up"] == 9
        assert not any(seen)


def test_wrong_rows_are_an_error():
    def body(domain):
        model = convert_to_domain_parallel(make(), domain, rows=ROWS + 5)
        model(own_rows(X[0], 2, domain))

    errors = failures(2, body)
    assert len(errors) == 2 and any("rows" in str(error) for error in errors.values())


def test_rows_need_a_model_that_runs_on_meta_tensors():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(x) if x.sum().item() > 0 else x

    def body(domain):
        convert_to_domain_parallel(Looks().double(), domain, rows=ROWS)(own_rows(X[0], 2, domain))

    errors = failures(2, body)
    assert len(errors) == 2 and all("meta tensors" in str(error) for error in errors.values())


def test_without_a_manager_and_on_one_rank_it_is_the_plain_model():
    expected = make()(X[0])
    assert torch.equal(converted_alone(make())(X[0]), expected)
    results = run_ranks(1, lambda domain: convert_to_domain_parallel(make(), domain)(X[0]))
    assert torch.equal(results[0], expected)


def test_copies_and_pickles_are_converted_models():
    # torch itself does not pickle a parametrized module.
    plain = make()
    plain.stem = nn.Conv2d(3, 4, (4, 3), (2, 1), 1).double()

    def body(domain):
        model = convert_to_domain_parallel(copy.deepcopy(plain), domain)
        mine = own_rows(X[0], 2, domain)
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twins.append(torch.load(buffer, weights_only=False))
        for twin in twins:
            assert twin.shared is twin.again
            assert twin.shared.weight is not model.shared.weight
            assert twin.shared.weight is twin.shared.conv.weight
            assert list(twin.state_dict()) == list(model.state_dict())
        return [twin(mine).detach() for twin in [model, *twins]]

    for outputs in run_ranks(2, body):
        assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_a_copy_trains_alone():
    model = converted_alone(make())
    twin = copy.deepcopy(model)
    twin(X[0]).sum().backward()
    assert model.shared.weight.grad is None and twin.shared.weight.grad is not None
    with torch.no_grad():
        twin.shared.weight.zero_()
    assert model.shared.weight.any()


def test_train_and_eval_reach_what_is_wrapped():
    model = converted_alone(make())
    model.eval()
    assert not any(m.training for m in model.modules())
    assert not model.stem.wrapped.training and not model.dropout.training
    before = model.stem.parametrizations.weight[0]._u.clone()
    model(X[0])
    assert torch.equal(model.stem.parametrizations.weight[0]._u, before)
    model.train()
    assert model.stem.wrapped.training
    model(X[0])
    assert not torch.equal(model.stem.parametrizations.weight[0]._u, before)


def test_dtypes_move_as_in_the_plain_model():
    model = converted_alone(make(torch.float32)).to(torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert model.shared.wrapped.weight.dtype == torch.bfloat16


def test_two_domains_in_one_program():
    """Each rank takes part in two cuts, first in one and last in the other."""
    expected = make().eval()(X[0]).detach()

    def body(domain):
        other = Domain.threads(f"second of {domain.group_name.split(':')[1]}", 2 - domain.rank, 3)
        try:
            first = convert_to_domain_parallel(make(), domain).eval()
            second = convert_to_domain_parallel(make(), other).eval()
            a = first(own_rows(X[0], 2, domain)).detach()
            b = second(own_rows(X[0], 2, other)).detach()
            return a, b
        finally:
            torch.ops.graticule.destroy_thread_group(other.group_name)

    parts = run_ranks(3, body)
    assert relative(torch.cat([a for a, _ in parts], 2), expected) < 1e-12
    assert relative(torch.cat([b for _, b in reversed(parts)], 2), expected) < 1e-12


def test_interpolation_layers_stay_as_they_are():
    layer = DomainParallelInterpolate(8)
    model = nn.Sequential(nn.Conv2d(3, 3, 3), layer)
    assert converted_alone(model)[1] is layer


UPSAMPLES = [
    nn.Upsample((20, 7)),
    nn.Upsample(11, mode="nearest-exact"),
    nn.Upsample(scale_factor=2),
    nn.Upsample(scale_factor=(2.3, 0.7), mode="bilinear"),
    nn.Upsample(scale_factor=(2.3, 0.7), mode="bilinear", recompute_scale_factor=True),
    nn.Upsample((20, 7), mode="bilinear", align_corners=True),
    nn.Upsample(scale_factor=1.5, mode="bicubic", align_corners=False),
    nn.Upsample((4, 5), mode="area"),
    nn.UpsamplingNearest2d(scale_factor=3),
    nn.UpsamplingBilinear2d((15, 9)),
    nn.Upsample(scale_factor=2, mode="linear"),
    nn.Upsample(scale_factor=(1, 2, 1.5), mode="trilinear"),
]


@pytest.mark.parametrize("rows", [None, 9])
@pytest.mark.parametrize("module", UPSAMPLES, ids=str)
def test_upsampling_is_exact(module, rows):
    sizes = {"linear": (9,), "trilinear": (2, 9, 6)}.get(module.mode, (9, 6))
    x = torch.randn(2, 3, *sizes, dtype=torch.float64).requires_grad_()
    dim = 3 if len(sizes) == 3 else 2
    serial = module(x)
    serial.square().sum().backward()

    def body(domain):
        layer = convert_to_domain_parallel(nn.Sequential(copy.deepcopy(module)), domain, rows=rows)[0]
        assert type(layer) is DomainParallelUpsample and not layer.state_dict()
        own = own_rows(x.detach(), dim, domain).clone().requires_grad_()
        y = layer(input=own)
        y.square().sum().backward()
        return y.detach(), own.grad

    for ranks in (2, 3):
        parts = run_ranks(ranks, body)
        assert relative(torch.cat([y for y, _ in parts], dim), serial.detach()) < 1e-12
        assert relative(torch.cat([g for _, g in parts], dim), x.grad) < 1e-12


def test_an_upsampling_that_is_converted_keeps_its_hooks_and_options():
    module = nn.Upsample(scale_factor=2)
    module.register_forward_hook(double_output)
    module.register_forward_pre_hook(halve_input)
    x = torch.randn(1, 3, 9, 6, dtype=torch.float64)

    def body(domain):
        layer = convert_to_domain_parallel(copy.deepcopy(module), domain)
        layer.mode = "bilinear"
        return layer(own_rows(x, 2, domain))

    parts = run_ranks(2, body)
    module.mode = "bilinear"
    assert relative(torch.cat(parts, 2), module(x)) < 1e-12


@pytest.mark.parametrize("options", [{}, {"size": 4, "scale_factor": 2}, {"size": (4, 4, 4)}, {"mode": "no such"}])
def test_an_upsampling_that_torch_refuses_is_refused(options):
    with pytest.raises((ValueError, NotImplementedError)):
        nn.Upsample(**options)(torch.zeros(1, 1, 4, 4))

    def body(domain):
        convert_to_domain_parallel(nn.Upsample(**options), domain)(torch.zeros(1, 1, 4, 4))

    errors = failures(2, body)
    assert len(errors) == 2
    assert all(isinstance(error, (ValueError, NotImplementedError)) for error in errors.values())


def test_a_hook_may_replace_the_input_of_a_convolution_of_no_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).double()
    x = torch.randn(1, 3, 2, 5, dtype=torch.float64)

    def body(domain):
        converted = convert_to_domain_parallel(copy.deepcopy(model), domain)
        converted[0].register_forward_pre_hook(halve_input)
        return converted(own_rows(x, 2, domain))

    assert relative(torch.cat(run_ranks(3, body), 2), model(x / 2)) < 1e-14


def test_rows_of_a_sequence():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), nn.Conv1d(3, 2, 4, 2, 1)).double()
    x = torch.randn(2, 3, 16, dtype=torch.float64)

    def body(domain):
        return convert_to_domain_parallel(copy.deepcopy(model), domain, rows=16)(own_rows(x, 2, domain))

    assert relative(torch.cat(run_ranks(2, body), 2), model(x)) < 1e-13


def test_the_domain_of_the_environment_is_one():
    assert Domain.from_env() == Domain.from_env()
