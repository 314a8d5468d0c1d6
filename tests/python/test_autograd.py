"""The ops under autograd: derivatives by finite differences, schemas, fake tensors, second derivatives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from graticule import PeriodicConv2d, fold_rows, gather_rows
from graticule.domain_parallel import layers
from support.ranks import balanced, failures, own_rows, relative, run_ranks

OPS = torch.ops.graticule
ROWS = 7


def layer_calls():
    """Name, a serial layer and its cut one over a domain, in float64."""
    torch.manual_seed(0)
    plain = {
        "conv": (nn.Conv2d(2, 2, 3, padding=1), layers.DomainParallelConv2d),
        "strided conv": (nn.Conv2d(2, 2, (4, 3), stride=(2, 1), padding=(1, 1)), layers.DomainParallelConv2d),
        "reflected conv": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), layers.DomainParallelConv2d),
        "transposed conv": (nn.ConvTranspose2d(2, 2, 4, 2, 1), layers.DomainParallelConvTranspose2d),
        "norm": (nn.GroupNorm(1, 2), layers.DomainParallelGroupNorm),
        "periodic conv": (PeriodicConv2d(2, 2, 3), layers.DomainParallelPeriodicConv2d),
    }
    for name, (module, kind) in plain.items():
        yield name, module.double(), lambda m, domain, kind=kind: kind(m, domain=domain)
    for mode in ("bilinear", "bicubic", "nearest", "area"):
        yield (
            f"{mode} interpolation",
            nn.Identity(),
            lambda m, domain, mode=mode: layers.DomainParallelInterpolate((11, 3), mode, domain=domain),
        )


CALLS = {name: (module, cut) for name, module, cut in layer_calls()}


class OverRanks(torch.autograd.Function):
    """A cut layer as a function of the whole input and the parameters: sharded and gathered inside, both ways."""

    @staticmethod
    def forward(ctx, module, cut, ranks, x, *parameters):
        ctx.save_for_backward(x, *parameters)
        ctx.arguments = module, cut, ranks
        return OverRanks.run(module, cut, ranks, x, parameters, None)[0]

    @staticmethod
    def backward(ctx, gradient):
        x, *parameters = ctx.saved_tensors
        _, gradients = OverRanks.run(*ctx.arguments, x, parameters, gradient)
        return (None, None, None, *gradients)

    @staticmethod
    def run(module, cut, ranks, x, parameters, gradient):
        names = [name for name, _ in module.named_parameters()]

        def body(domain):
            mine = own_rows(x.detach(), 2, domain).clone().requires_grad_()
            copies = [p.detach().clone().requires_grad_() for p in parameters]
            layer = cut(copy.deepcopy(module), domain)
            with torch.enable_grad():
                y = torch.func.functional_call(layer, dict(zip(names, copies, strict=True)), (mine,))
            if gradient is None:
                return y.detach(), []
            first, last = balanced(gradient.shape[2], ranks)[domain.rank :][:2]
            return y.detach(), torch.autograd.grad(y, [mine, *copies], gradient[:, :, first:last])

        outputs, parts = zip(*run_ranks(ranks, body), strict=True)
        whole = torch.cat(outputs, 2)
        if gradient is None:
            return whole, None
        rows = torch.cat([part[0] for part in parts], 2)
        return whole, [rows, *(sum(ps) for ps in zip(*(part[1:] for part in parts), strict=True))]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", CALLS)
def test_gradients_by_finite_differences(name, ranks):
    module, cut = CALLS[name]
    torch.manual_seed(1)
    x = torch.randn(1, 2, ROWS, 4, dtype=torch.float64, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert gradcheck(lambda *given: OverRanks.apply(module, cut, ranks, *given), (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("boundary", ["zeros", "reflect", "circular", "replicate"])
def test_gradcheck_of_the_exchange(boundary):
    """On one rank the op itself is a function of the whole input."""

    def body(domain):
        def gather(x):
            return gather_rows(x, domain, [0, 5], [-3], [9], boundary, 2)

        def fold(g):
            return fold_rows(g, domain, [0, 5], [-3], [9], boundary, 2)

        x = torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True)
        g = torch.randn(1, 2, 12, 3, dtype=torch.float64, requires_grad=True)
        return gradcheck(gather, x) and gradcheck(fold, g) and torch.autograd.gradgradcheck(gather, x)

    assert run_ranks(1, body) == [True]


def op_arguments(domain):
    """Arguments of every op for this rank's shard of ROWS rows."""
    rows = balanced(ROWS, domain.size)
    mine = rows[domain.rank + 1] - rows[domain.rank]
    group = domain.group_name
    torch.manual_seed(domain.rank)

    def x(*shape):
        return torch.randn(*shape).requires_grad_()

    torch.manual_seed(0)
    weight, bias = x(4, 2, 3, 3), x(4)
    shard, gradient = x(1, 2, mine, 4), x(1, 4, mine, 4)
    stencil = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1, rows, rows, 2, group, "layer")
    exchange = (rows, [r - 1 for r in rows[:-1]], [r + 1 for r in rows[1:]], "zeros", 2, -1, False, False, group)
    upper = balanced(11, domain.size)
    resample = ("linear", False, None, False, rows, upper, 2, group, "layer")
    plane = ("linear", False, None, [4, 6], None, False, rows, upper, group, "layer")
    factor, shift = x(2), x(2)
    mean, rstd = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    norm = (1, 1e-5, rows, 2, group, "layer")
    return {
        "convolution": (shard, weight, bias, *stencil, "reflect", "circular"),
        "convolution_with_halo": (shard, weight, bias, *stencil, "reflect", "circular"),
        "convolution_backward": (
            *(t.detach() for t in (gradient, shard, x(1, 2, 1, 4), x(1, 2, 1, 4), weight)),
            *stencil,
            "reflect",
            "circular",
            [True, True, True],
        ),
        "group_norm_forward": (shard, factor, shift, *norm),
        "group_norm_backward": (shard.detach(), shard.detach(), mean, rstd, factor.detach(), *norm, [True] * 3),
        "gather_rows": (shard, *exchange),
        "fold_rows": (x(1, 2, mine + 2, 4), *exchange),
        "resample_rows": (shard, *resample),
        "resample_rows_adjoint": (x(1, 2, upper[domain.rank + 1] - upper[domain.rank], 4), *resample),
        "resample_plane": (shard, *plane),
        "resample_plane_adjoint": (x(1, 2, upper[domain.rank + 1] - upper[domain.rank], 6), *plane),
        "conv": (shard, weight, bias, [1, 1], [1, 1], [1, 1], "zeros", [1, 1], 1, rows, [], 2, group, "layer"),
        "conv_transpose": (shard, x(2, 3, 4, 4), None, [2, 2], [1, 1], [0, 0], [1, 1], 1, rows, [], 2, group, "layer"),
        "periodic_conv": (shard, weight, bias, [1, 1], [0, 0], [1, 1], 1, "zeros", [1, 1], rows, [], 2, group, "layer"),
        "group_norm": (shard, 1, factor, shift, 1e-5, rows, 2, group, "layer"),
        "interpolate": (shard, [11, 6], [], "bilinear", False, None, False, rows, [], 2, group, "layer"),
    }


OP_NAMES = [
    "convolution",
    "convolution_with_halo",
    "convolution_backward",
    "group_norm_forward",
    "group_norm_backward",
    "gather_rows",
    "fold_rows",
    "resample_rows",
    "resample_rows_adjoint",
    "resample_plane",
    "resample_plane_adjoint",
    "conv",
    "conv_transpose",
    "periodic_conv",
    "group_norm",
    "interpolate",
]


@pytest.mark.parametrize("name", OP_NAMES)
def test_opcheck(name):
    """Schema, autograd registration and fake tensors, on one rank: opcheck calls an op as often as it likes."""

    def body(domain):
        torch.library.opcheck(
            getattr(OPS, name).default,
            op_arguments(domain)[name],
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )

    run_ranks(1, body)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", OP_NAMES)
def test_meta_tensors_have_the_shapes_of_the_rank(name, ranks):
    def body(domain):
        arguments = op_arguments(domain)[name]
        op = getattr(OPS, name)
        real = op(*arguments)
        meta = op(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments))
        outputs = [(real, meta)] if isinstance(real, torch.Tensor) else list(zip(real, meta, strict=True))
        return [(a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()) for a, b in outputs]

    for same in run_ranks(ranks, body):
        assert all(same)


@pytest.mark.parametrize("name", ["conv", "transposed conv", "norm", "periodic conv"])
def test_a_second_derivative_is_an_error(name):
    module, cut = CALLS[name]

    def body(domain):
        mine = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
        y = cut(module, domain)(mine)
        (first,) = torch.autograd.grad(y.square().sum(), mine, create_graph=True)
        torch.autograd.grad(first.square().sum(), mine)

    errors = failures(2, body)
    assert len(errors) == 2
    for error in errors.values():
        assert "gradient of the gradient" in str(error) and "DomainParallel" in str(error)


def test_a_second_derivative_of_a_frozen_input_is_an_error():
    """With respect to the weight alone, too."""
    module, cut = CALLS["conv"]

    def body(domain):
        layer = cut(module, domain)
        y = layer(torch.randn(1, 2, 4, 4, dtype=torch.float64))
        (first,) = torch.autograd.grad(y.square().sum(), layer.weight, create_graph=True)
        first.square().sum().backward()

    errors = failures(2, body)
    assert len(errors) == 2 and all("gradient of the gradient" in str(error) for error in errors.values())


@pytest.fixture
def whole_windows():
    OPS.force_convolution_path("whole_windows")
    yield
    OPS.force_convolution_path("automatic")


@pytest.mark.parametrize("frozen", [False, True])
def test_rows_are_kept_for_a_weight_that_needs_a_gradient(frozen, whole_windows):
    """Two more tensors, of the rows that came: none for a frozen weight, whose input still has its gradient."""
    torch.manual_seed(0)
    serial = nn.Conv2d(2, 2, 5, padding=2, padding_mode="reflect").double()
    serial.weight.requires_grad_(not frozen)
    whole = torch.randn(1, 2, 12, 4, dtype=torch.float64, requires_grad=True)
    serial(whole).square().sum().backward()

    def body(domain):
        module = copy.deepcopy(serial)
        module.zero_grad()
        mine = own_rows(whole.detach(), 2, domain).clone().requires_grad_()
        saved = []

        def pack(tensor):
            saved.append(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = layers.DomainParallelConv2d(module, domain=domain)(mine)
        y.square().sum().backward()
        return saved, mine.grad, module.weight.grad

    saved, rows, weights = zip(*run_ranks(3, body), strict=True)
    halo = [] if frozen else [(1, 2, 2, 4)] * 2
    assert all(shapes == [(1, 2, 4, 4), (2, 2, 5, 5), *halo] for shapes in saved)
    assert relative(torch.cat(rows, 2), whole.grad) < 1e-12
    if not frozen:
        assert relative(sum(weights), serial.weight.grad) < 1e-12


@pytest.mark.parametrize("row", [0, 3, 4, 7])
@pytest.mark.parametrize("options", [{"kernel_size": 3, "padding": 1}, {"kernel_size": 3, "stride": 3}])
def test_what_is_not_finite_spreads_as_in_the_uncut_layer(options, row):
    """A row of the input meets no weight that it does not meet there, such as by way of zeros beyond the grid."""
    torch.manual_seed(0)
    serial = nn.Conv2d(1, 1, **options).double()
    whole = torch.randn(1, 1, 8, 4, dtype=torch.float64)
    whole[..., row, :] = torch.nan
    serial(whole).nansum().backward()

    def body(domain):
        module = copy.deepcopy(serial)
        module.zero_grad()
        layers.DomainParallelConv2d(module, domain=domain)(own_rows(whole, 2, domain)).nansum().backward()
        return module.weight.grad

    for size in (2, 3):
        assert torch.equal(sum(run_ranks(size, body)).isnan(), serial.weight.grad.isnan())


def test_the_op_that_keeps_rows_is_differentiable():
    def body(domain):
        arguments = op_arguments(domain)
        y, before, after = OPS.convolution_with_halo(*arguments["convolution_with_halo"])
        leaves = arguments["convolution_with_halo"][:3]
        expected = torch.autograd.grad(OPS.convolution(*leaves, *arguments["convolution"][3:]).sum(), leaves)
        assert not before.requires_grad and not after.requires_grad
        return [torch.equal(a, b) for a, b in zip(torch.autograd.grad(y.sum(), leaves), expected, strict=True)]

    assert all(all(same) for same in run_ranks(2, body))


def test_a_backward_without_the_rows_is_an_error():
    """On the rank whose rows are missing, and on the others too."""

    def body(domain):
        gradient, shard, before, after, *rest = op_arguments(domain)["convolution_backward"]
        if domain.rank == 1:
            before = before[:, :, :0]
        OPS.convolution_backward(gradient, shard, before, after, *rest)

    errors = failures(3, body)
    assert len(errors) == 3
    assert "layer: expected the rows before rank 1's own, [1, 2, 1, 4], got [1, 2, 0, 4]" in str(errors[1])
    assert "rank 1" in str(errors[0])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest", "area"])
def test_interpolation_has_second_derivatives(mode):
    torch.manual_seed(0)
    x = torch.randn(1, 2, ROWS, 4, dtype=torch.float64)

    def twice(leaf, resize):
        (first,) = torch.autograd.grad(resize(leaf).pow(3).sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    expected = twice(x.clone().requires_grad_(), lambda leaf: F.interpolate(leaf, (11, 3), mode=mode))

    def body(domain):
        layer = layers.DomainParallelInterpolate((11, 3), mode, domain=domain)
        return twice(own_rows(x, 2, domain).clone().requires_grad_(), layer)

    assert relative(torch.cat(run_ranks(3, body), 2), expected) < 1e-12


def test_no_gradient_is_made_where_none_is_asked_for():
    module, cut = CALLS["conv"]

    def body(domain):
        layer = cut(module, domain)
        with torch.no_grad():
            assert not layer(torch.randn(1, 2, 4, 4, dtype=torch.float64)).requires_grad
        with torch.inference_mode():
            layer(torch.randn(1, 2, 4, 4, dtype=torch.float64))

    run_ranks(2, body)


def test_one_rank_may_need_no_input_gradient():
    """The parameters' gradients alone make every rank take part."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, 8, 4, dtype=torch.float64)
    serial = nn.Conv2d(2, 2, 3, padding=1).double()
    serial(x).square().sum().backward()

    def body(domain):
        module = nn.Conv2d(2, 2, 3, padding=1).double()
        module.load_state_dict(serial.state_dict())
        mine = own_rows(x, 2, domain).clone().requires_grad_(domain.rank == 1)
        layers.DomainParallelConv2d(module, domain=domain)(mine).square().sum().backward()
        return module.weight.grad

    assert relative(sum(run_ranks(2, body)), serial.weight.grad) < 1e-12


@pytest.mark.parametrize("frozen", ["weight", "both"])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_alone_may_need_an_input_gradient_of_a_frozen_kernel(frozen, rank):
    """The bias's gradient alone makes the other rank take part; with that frozen too, x asks for it there."""
    torch.manual_seed(0)
    serial = nn.Conv2d(4, 4, 3, padding=1).double()
    serial.weight.requires_grad_(False)
    x = torch.randn(1, 4, 9, 6, dtype=torch.float64)
    uncut = x.clone().requires_grad_()
    serial(uncut).square().sum().backward()

    def body(domain):
        module = copy.deepcopy(serial)
        module.bias.requires_grad_(frozen == "weight")
        mine = own_rows(x, 2, domain).clone().requires_grad_(domain.rank == rank or frozen == "both")
        layers.DomainParallelConv2d(module, domain=domain)(mine).square().sum().backward()
        if mine.grad is not None:
            assert relative(mine.grad, own_rows(uncut.grad, 2, domain)) < 1e-12
        return module.bias.grad

    gradients = run_ranks(2, body)
    if frozen == "weight":
        assert relative(sum(gradients), serial.bias.grad) < 1e-12


@pytest.mark.parametrize("kind", ["conv", "group norm"])
def test_a_gradient_that_one_rank_does_not_give(kind):
    """A function behind the layer may give none: it counts as zeros, and the other rank's is as uncut."""
    torch.manual_seed(0)
    whole = torch.randn(2, 4, 8, 6, dtype=torch.float64)

    class WithoutGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, gradient):
            return None

    serial = (nn.Conv2d(4, 4, 3, padding=1) if kind == "conv" else nn.GroupNorm(2, 4)).double()
    x = whole.clone().requires_grad_()
    serial(x)[:, :, :4].square().sum().backward()
    cut_layer = layers.DomainParallelConv2d if kind == "conv" else layers.DomainParallelGroupNorm

    def body(domain):
        mine = own_rows(whole, 2, domain).clone().requires_grad_()
        y = cut_layer(copy.deepcopy(serial), domain=domain)(mine)
        (y if domain.rank == 0 else WithoutGradient.apply(y)).square().sum().backward()
        return mine.grad

    assert relative(torch.cat(run_ranks(2, body), 2), x.grad) < 1e-12


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("kind", ["gather_rows", "interpolation"])
def test_a_checkpoint_computes_an_exchange_again_on_all_ranks(kind, ranks):
    """Though one rank alone has work behind it that keeps something for backward."""
    torch.manual_seed(0)
    whole, factor = torch.randn(1, 2, 12, 6, dtype=torch.float64), torch.randn(1, 2, 1, 6, dtype=torch.float64)
    offsets = balanced(12, ranks)

    def body(domain):
        x = own_rows(whole, 2, domain).clone().requires_grad_()
        resize = layers.DomainParallelInterpolate((17, 6), domain=domain, rows=12)
        begins, ends = [max(0, o - 1) for o in offsets[:-1]], [min(12, o + 1) for o in offsets[1:]]

        def block(x):
            y = resize(x) if kind == "interpolation" else gather_rows(x, domain, offsets, begins, ends)
            return y * factor if domain.rank == 0 else y

        def gradient(call):
            x.grad = None
            call(x).sum().backward()
            return x.grad

        return relative(gradient(lambda x: checkpoint(block, x, use_reentrant=False)), gradient(block))

    assert max(run_ranks(ranks, body)) < 1e-14
