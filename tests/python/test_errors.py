"""Every error that the library raises: of which kind, on every rank, naming what was expected and what came."""

import math
import time

import pytest
import torch
from torch import nn

from graticule import Domain, PeriodicConv2d, fold_rows, gather_rows
from graticule.domain_parallel import HaloExchange, convert_to_domain_parallel, layers
from graticule.domain_parallel.manager import DomainParallelManager
from support.ranks import balanced, failures, run_ranks

OPS = torch.ops.graticule
ROWS = balanced(9, 2)

pytestmark = pytest.mark.undisturbed


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch):
    monkeypatch.setenv("GRATICULE_TIMEOUT", "3")


def refused(body, kind, *words, ranks=2):
    """Asserts that body raises `kind` on every rank, with these words."""
    errors = failures(ranks, body)
    assert sorted(errors) == list(range(ranks)), errors
    for rank, error in errors.items():
        assert isinstance(error, kind), f"rank {rank}: {type(error).__name__}: {error}"
        for word in words:
            assert word in str(error), f"{word!r} is not in {error}"
    return errors


def own(domain, *shape, dtype=torch.float32):
    """The rank's 4 or 5 of 9 rows, in dimension 2."""
    shape = shape or (1, 4, 6)
    return torch.randn(*shape[:2], ROWS[domain.rank + 1] - ROWS[domain.rank], *shape[2:]).to(dtype)


def conv(domain, x=None, weight=None, bias=None, **changes):
    a = {
        "stride": [1, 1],
        "before": [1, 1],
        "after": [1, 1],
        "mode": "zeros",
        "dilation": [1, 1],
        "groups": 1,
        "offsets": ROWS,
        "out": [],
        "dim": 2,
    } | changes
    x = own(domain) if x is None else x
    weight = torch.randn(8, 4, 3, 3) if weight is None else weight
    return OPS.conv(
        x,
        weight,
        bias,
        a["stride"],
        a["before"],
        a["after"],
        a["mode"],
        a["dilation"],
        a["groups"],
        a["offsets"],
        a["out"],
        a["dim"],
        domain.group_name,
        "TheConv",
    )


def transposed(domain, weight=None, **changes):
    a = {"stride": [2, 2], "padding": [1, 1], "output": [0, 0], "dilation": [1, 1], "offsets": ROWS} | changes
    weight = torch.randn(4, 8, 3, 3) if weight is None else weight
    return OPS.conv_transpose(
        a.get("x", own(domain)),
        weight,
        None,
        a["stride"],
        a["padding"],
        a["output"],
        a["dilation"],
        1,
        a["offsets"],
        [],
        2,
        domain.group_name,
        "TheConv",
    )


def periodic(domain, x=None, dim=2, padding=(1, 1)):
    return OPS.periodic_conv(
        own(domain) if x is None else x,
        torch.randn(8, 4, 3, 3),
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        1,
        "zeros",
        list(padding),
        ROWS,
        [],
        dim,
        domain.group_name,
        "TheConv",
    )


def norm(domain, x=None, groups=2, weight=None, offsets=ROWS, dim=2):
    x = own(domain) if x is None else x
    return OPS.group_norm(x, groups, weight, None, 1e-5, offsets, dim, domain.group_name, "TheNorm")


def resized(domain, x=None, size=(5, 5), scale=(), mode="bilinear", align=None, recompute=None, antialias=False):
    return OPS.interpolate(
        own(domain) if x is None else x,
        list(size),
        list(scale),
        mode,
        align,
        recompute,
        antialias,
        ROWS,
        [],
        2,
        domain.group_name,
        "TheResize",
    )


def gathered(domain, x=None, call=gather_rows, **changes):
    arguments = {"offsets": ROWS, "begins": [-1, 3], "ends": [5, 10], "boundary": "zeros", "dim": 2} | changes
    return call(own(domain) if x is None else x, domain, **arguments)


# What a call does, the kind of error, and the words in it.
CALLS = {
    "integer input": (
        lambda d: conv(d, own(d, dtype=torch.int32)),
        TypeError,
        "TheConv",
        "floating-point",
        "Int",
        "rank",
    ),
    "complex input": (lambda d: conv(d, own(d).to(torch.complex64)), TypeError, "TheConv", "floating-point", "Complex"),
    "two dimensions": (lambda d: conv(d, torch.zeros(4, 6)), ValueError, "TheConv", "3 to 5 dimensions", "got 2"),
    "six dimensions": (lambda d: conv(d, torch.zeros(1, 4, 4, 1, 1, 1)), ValueError, "TheConv", "got 6"),
    "cut along channels": (lambda d: conv(d, dim=1), ValueError, "TheConv", "spatial", "got 1"),
    "cut beyond": (lambda d: conv(d, dim=4), ValueError, "TheConv", "cut dimension", "got 4"),
    "too few offsets": (lambda d: conv(d, offsets=[0, 9]), ValueError, "TheConv", "expected 3 offsets", "got 2"),
    "offsets from one": (lambda d: conv(d, offsets=[1, 4, 9]), ValueError, "TheConv", "first offset is 0", "got 1"),
    "offsets descend": (lambda d: conv(d, offsets=[0, 9, 4]), ValueError, "TheConv", "ascend"),
    "no rows": (lambda d: conv(d, torch.zeros(1, 4, 0, 6), offsets=[0, 0, 0]), ValueError, "TheConv", "no rows"),
    "rows unlike the offsets": (lambda d: conv(d, offsets=[0, 1, 2]), RuntimeError, "TheConv", "expected 1 rows"),
    "output offsets": (lambda d: conv(d, out=[0, 4, 8]), ValueError, "TheConv", "9 rows", "[0, 4, 8]"),
    "output offsets descend": (lambda d: conv(d, out=[0, 10, 9]), ValueError, "TheConv", "output rows", "ascend"),
    "weight of 1-D": (lambda d: conv(d, weight=torch.zeros(8, 4, 3)), ValueError, "TheConv", "3 dimensions", "got 4"),
    "groups": (lambda d: conv(d, groups=3), ValueError, "TheConv", "3 groups", "8 channels"),
    "channels": (lambda d: conv(d, own(d, 1, 3, 6)), ValueError, "TheConv", "input of 4 channels", "got 3"),
    "weight's dtype": (lambda d: conv(d, own(d, dtype=torch.float64)), TypeError, "TheConv", "Float", "got Double"),
    "bias of 5": (lambda d: conv(d, bias=torch.zeros(5)), ValueError, "TheConv", "bias of 8", "[5]"),
    "bias's dtype": (lambda d: conv(d, bias=torch.zeros(8).double()), TypeError, "TheConv", "bias", "got Double"),
    "one stride": (lambda d: conv(d, stride=[1]), ValueError, "TheConv", "2 values of stride", "got 1"),
    "stride 0": (lambda d: conv(d, stride=[0, 1]), ValueError, "TheConv", "stride", "at least 1", "[0, 1]"),
    "dilation 0": (lambda d: conv(d, dilation=[1, 0]), ValueError, "TheConv", "dilation", "at least 1", "[1, 0]"),
    "padding -1": (lambda d: conv(d, before=[-1, 0]), ValueError, "TheConv", "padding", "at least 0", "[-1, 0]"),
    "three paddings": (lambda d: conv(d, after=[1, 1, 1]), ValueError, "TheConv", "2 values of padding", "got 3"),
    "padding mode": (lambda d: conv(d, mode="mirror"), ValueError, "TheConv", "padding_mode", "got mirror"),
    "window too large": (lambda d: conv(d, dilation=[6, 1]), ValueError, "TheConv", "window of 13", "input of 11"),
    "reflect too wide": (lambda d: conv(d, mode="reflect", before=[9, 1]), ValueError, "TheConv", "reflect", "of 9"),
    "reflect too wide across": (
        lambda d: conv(d, mode="reflect", before=[1, 6]),
        ValueError,
        "TheConv",
        "reflect",
        "of 6",
    ),
    "circular too wide": (lambda d: conv(d, mode="circular", after=[10, 1]), ValueError, "TheConv", "circular", "of 9"),
    "output padding": (lambda d: transposed(d, output=[2, 0]), ValueError, "TheConv", "output padding", "[2, 0]"),
    "output padding -1": (
        lambda d: transposed(d, output=[-1, 0]),
        ValueError,
        "TheConv",
        "output_padding",
        "at least 0",
    ),
    "nothing left": (lambda d: transposed(d, padding=[10, 0]), ValueError, "TheConv", "too small"),
    "transposed channels": (lambda d: transposed(d, weight=torch.zeros(5, 8, 3, 3)), ValueError, "5 channels", "got 4"),
    "periodic along W": (lambda d: periodic(d, dim=3), ValueError, "TheConv", "along H", "along 3"),
    "periodic of 5-D": (lambda d: periodic(d, own(d, 1, 4, 6, 6)), ValueError, "TheConv", "got 5"),
    "periodic reflect": (lambda d: periodic(d, padding=(9, 1)), ValueError, "TheConv", "reflect", "of 9"),
    "periodic circular": (lambda d: periodic(d, padding=(1, 7)), ValueError, "TheConv", "circular", "of 6"),
    "norm's groups": (lambda d: norm(d, groups=3), ValueError, "TheNorm", "3 groups", "4 channels"),
    "norm's integers": (lambda d: norm(d, own(d, dtype=torch.int64)), TypeError, "TheNorm", "floating-point", "Long"),
    "norm's weight": (lambda d: norm(d, weight=torch.ones(3)), ValueError, "TheNorm", "weight of 4", "[3]"),
    "norm's dtype": (lambda d: norm(d, weight=torch.ones(4).double()), TypeError, "TheNorm", "weight", "got Double"),
    "norm of one value": (
        lambda d: norm(d, torch.zeros(1, 2, d.rank, 1), 2, offsets=[0, 0, 1]),
        ValueError,
        "TheNorm",
        "more than one value",
    ),
    "norm's rows": (lambda d: norm(d, offsets=[0, 4, 10] if d.rank else [0, 3, 10]), ValueError, "TheNorm", "rows"),
    "mode": (lambda d: resized(d, mode="lanczos"), ValueError, "TheResize", "expected mode", "got lanczos"),
    "mode of 1-D": (lambda d: resized(d, mode="linear"), ValueError, "TheResize", "linear", "4 dimensions"),
    "nearest, corners": (lambda d: resized(d, mode="nearest", align=True), ValueError, "TheResize", "align_corners"),
    "antialias": (lambda d: resized(d, mode="area", antialias=True), ValueError, "TheResize", "antialias", "got area"),
    "no size": (lambda d: resized(d, size=()), ValueError, "TheResize", "one of size and scale_factor", "neither"),
    "two sizes": (lambda d: resized(d, scale=(2, 2)), ValueError, "TheResize", "one of size and scale_factor", "both"),
    "size of one value": (lambda d: resized(d, size=(5,)), ValueError, "TheResize", "size of 2 values", "got 1"),
    "scale of one value": (lambda d: resized(d, size=(), scale=(2.0,)), ValueError, "TheResize", "scale_factor of 2"),
    "an infinite scale": (
        lambda d: resized(d, size=(), scale=(2.0, math.inf)),
        ValueError,
        "TheResize",
        "finite scale factors",
        "inf",
    ),
    "recompute with size": (lambda d: resized(d, recompute=True), ValueError, "TheResize", "recompute_scale_factor"),
    "nothing": (lambda d: resized(d, size=(0, 5)), ValueError, "TheResize", "9 to 0"),
    "torch's own mistake": (
        lambda d: resized(d, size=(5, 1), antialias=True),
        ValueError,
        "TheResize",
        "wrong in PyTorch itself",
    ),
    "boundary": (lambda d: gathered(d, boundary="mirror"), ValueError, "gather_rows", '"mirror"', "rank"),
    "beyond the grid": (lambda d: gathered(d, boundary="none"), ValueError, "gather_rows", "beyond the grid"),
    "reflect of one row": (
        lambda d: gathered(d, torch.zeros(1, 4, 1 - d.rank, 6), offsets=[0, 1, 1], boundary="reflect"),
        ValueError,
        "gather_rows",
        "at least 2 rows",
    ),
    "replicate of no row": (
        lambda d: gathered(d, torch.zeros(1, 4, 0, 6), offsets=[0, 0, 0], boundary="replicate"),
        ValueError,
        "gather_rows",
        "no rows",
    ),
    "begins without ends": (lambda d: gathered(d, ends=[5]), RuntimeError, "2 begins and 1 ends"),
    "three intervals": (lambda d: gathered(d, begins=[0, 0, 0], ends=[1, 1, 1]), ValueError, "2 ranks", "got 3"),
    "cut over three": (
        lambda d: gathered(d, offsets=[0, 4, 9, 9], begins=[0, 0, 0], ends=[1, 1, 1]),
        RuntimeError,
        "cut over 3 ranks",
        "has 2",
    ),
    "rows of a gather": (lambda d: gathered(d, offsets=[0, 1, 2]), RuntimeError, "gather_rows", "expected 1 rows"),
    "rows of a fold": (lambda d: gathered(d, call=fold_rows), RuntimeError, "fold_rows", "expected"),
    "pole without longitudes": (
        lambda d: gathered(d, boundary="pole"),
        RuntimeError,
        "gather_rows",
        "dimension of the longitudes",
    ),
    "pole, longitudes cut": (lambda d: gathered(d, boundary="pole", lon_dim=2), RuntimeError, "longitudes", "got 2"),
    "pole, odd longitudes": (
        lambda d: gathered(d, own(d, 1, 4, 7), boundary="pole", lon_dim=3),
        RuntimeError,
        "gather_rows",
        "even number of longitudes",
        "got 7",
    ),
    "layer, dimensions": (
        lambda d: layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3), domain=d)(torch.zeros(4, 6)),
        ValueError,
        "DomainParallelConv2d",
        "4 dimensions, or 3",
        "got 2",
        "rank",
    ),
    "layer's norm, dimensions": (
        lambda d: layers.DomainParallelGroupNorm(nn.GroupNorm(2, 4), domain=d)(torch.zeros(4, 4)),
        ValueError,
        "DomainParallelGroupNorm",
        "3 to 5 dimensions",
        "got 2",
    ),
    "layer's norm, channels": (
        lambda d: layers.DomainParallelGroupNorm(nn.GroupNorm(2, 4), domain=d)(own(d, 1, 6, 6)),
        ValueError,
        "DomainParallelGroupNorm",
        "4 channels",
        "got 6",
    ),
    "layer's resize, dimension": (
        lambda d: layers.DomainParallelInterpolate(5, shard_dim=1, domain=d)(own(d)),
        ValueError,
        "DomainParallelInterpolate",
        "shard_dim 1",
        "not a spatial dimension",
    ),
    "layer's periodic conv, W": (
        lambda d: layers.DomainParallelPeriodicConv2d(PeriodicConv2d(4, 4, 3), shard_dim=-1, domain=d)(own(d)),
        ValueError,
        "DomainParallelPeriodicConv2d",
        "cut along H",
        "shard_dim -1",
    ),
    "layer's rows": (
        lambda d: layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3), domain=d, rows=[0, 9])(own(d)),
        ValueError,
        "DomainParallelConv2d",
        "3 offsets",
        "got 2",
    ),
    "output_size": (
        lambda d: layers.DomainParallelConvTranspose2d(nn.ConvTranspose2d(4, 4, 3, 2), domain=d)(own(d), [50, 50]),
        ValueError,
        "output size",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_refuses(name):
    body, kind, *words = CALLS[name]
    begun = time.monotonic()
    refused(body, kind, *words)
    assert time.monotonic() - begun < 2, "what every rank can see is checked before any message"


MODULES = {
    "a Linear as Conv2d": (lambda: layers.DomainParallelConv2d(nn.Linear(1, 1)), TypeError, "Conv2d", "Linear"),
    "a Conv2d as Conv3d": (lambda: layers.DomainParallelConv3d(nn.Conv2d(1, 1, 1)), TypeError, "Conv3d", "Conv2d"),
    "a Conv1d as transposed": (
        lambda: layers.DomainParallelConvTranspose1d(nn.Conv1d(1, 1, 1)),
        TypeError,
        "ConvTranspose1d",
        "got Conv1d",
    ),
    "a Linear as norm": (lambda: layers.DomainParallelGroupNorm(nn.Linear(1, 1)), TypeError, "GroupNorm", "Linear"),
    "a Conv2d as periodic": (
        lambda: layers.DomainParallelPeriodicConv2d(nn.Conv2d(1, 1, 1)),
        TypeError,
        "number `padding`",
        "got Conv2d",
    ),
    "cut along channels": (
        lambda: layers.DomainParallelConv2d(nn.Conv2d(1, 1, 1), shard_dim=1),
        ValueError,
        "DomainParallelConv2d",
        "shard_dim 1",
    ),
    "negative halo": (lambda: HaloExchange(-1), ValueError, "HaloExchange", "at least 0", "got -1"),
    "no domain": (lambda: Domain.of(3), TypeError, "expected a Domain", "int"),
    "unknown group": (lambda: Domain.of("no such group"), RuntimeError, "no such group"),
    "rank beyond": (lambda: Domain.threads("w", 2, 2), ValueError, "rank in [0, 2)", "got 2"),
    "sizes that do not divide": (lambda: DomainParallelManager(4, 3), ValueError, "domains of 3", "world of 4"),
    "no process group": (lambda: DomainParallelManager(2, 2), ValueError, "init_process_group"),
    "rows that cannot be": (lambda: OPS.balanced_offsets(-1, 2), (ValueError, RuntimeError), "-1 rows"),
    "rows over no ranks": (lambda: OPS.balanced_offsets(4, 0), (ValueError, RuntimeError), "0 ranks"),
    "pooling": (
        lambda: convert_to_domain_parallel(nn.Sequential(nn.MaxPool2d(2)), None),
        ValueError,
        "0 (MaxPool2d)",
        "custom_converters",
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_refuses_to_make(name):
    make, kind, *words = MODULES[name]
    with pytest.raises(kind) as raised:
        make()
    for word in words:
        assert word in str(raised.value)


def test_a_thread_group_exists_once():
    def body(domain):
        if domain.rank == 0:
            world = domain.group_name.split(":")[1]
            with pytest.raises(ValueError, match="exists already"):
                OPS.create_thread_group(world, 0, 2)

    run_ranks(2, body)


def layer_call(make):
    def body(domain):
        torch.manual_seed(0)
        layer, x = make(domain)
        return layer(x)

    return body


def one_rank_differs(kind, x_of=lambda x: x, **changes):
    """A call of a layer on 3 ranks, with changed arguments or another input on rank 1."""

    def make(domain):
        options = kind["options"] | (changes if domain.rank == 1 else {})
        x = torch.randn(1, 4, 8, 6)
        return kind["layer"](options, domain), x_of(x) if domain.rank == 1 else x

    return layer_call(make)


CONV = {
    "layer": lambda o, d: layers.DomainParallelConv2d(nn.Conv2d(4, 4, **o), domain=d),
    "options": {"kernel_size": 3, "padding": 1},
}
TRANSPOSED = {
    "layer": lambda o, d: layers.DomainParallelConvTranspose2d(nn.ConvTranspose2d(4, 4, **o), domain=d),
    "options": {"kernel_size": 4, "stride": 2, "padding": 1},
}
NORM = {
    "layer": lambda o, d: layers.DomainParallelGroupNorm(nn.GroupNorm(num_channels=4, **o), domain=d),
    "options": {"num_groups": 2},
}
RESIZE = {
    "layer": lambda o, d: layers.DomainParallelInterpolate(domain=d, **o),
    "options": {"size": (30, 6), "mode": "bilinear"},
}

# Arguments that change what travels: an error on every rank without check mode.
SEEN_IN_MESSAGES = {
    "conv stride": one_rank_differs(CONV, stride=2),
    "conv padding": one_rank_differs(CONV, padding=(0, 1)),
    "conv kernel": one_rank_differs(CONV, kernel_size=5, padding=2),
    "conv dilation": one_rank_differs(CONV, dilation=(2, 1), padding=(2, 1)),
    "conv circular": one_rank_differs(CONV, padding_mode="circular"),
    "conv reflect": one_rank_differs(CONV, padding_mode="reflect"),
    "transposed padding": one_rank_differs(TRANSPOSED, padding=0),
    "transposed output padding": one_rank_differs(TRANSPOSED, output_padding=1),
    "transposed kernel": one_rank_differs(TRANSPOSED, kernel_size=2, padding=0),
    "norm groups": one_rank_differs(NORM, num_groups=4),
    "width": one_rank_differs(CONV, lambda x: x[..., :5]),
    "batch": one_rank_differs(CONV, lambda x: torch.cat([x, x])),
    "dtype": one_rank_differs(CONV, lambda x: x.double()),
    "channels": one_rank_differs(CONV, lambda x: x[:, :3]),
    "dimensions": one_rank_differs(CONV, lambda x: x[0, 0]),
}


@pytest.mark.parametrize("name", SEEN_IN_MESSAGES)
def test_a_rank_that_differs_is_an_error_on_every_rank(name):
    begun = time.monotonic()
    refused(SEEN_IN_MESSAGES[name], (RuntimeError, ValueError, TypeError), "DomainParallel", ranks=3)
    assert time.monotonic() - begun < 8


NAMED_BY_CHECK_MODE = {
    "conv stride": one_rank_differs(CONV, stride=2),
    "conv stride across": one_rank_differs(CONV, stride=(1, 2)),
    "conv padding across": one_rank_differs(CONV, padding=(1, 0)),
    "conv dilation across": one_rank_differs(CONV, dilation=(1, 2), padding=(1, 2)),
    "conv groups": one_rank_differs(CONV, groups=2),
    "conv padding mode": one_rank_differs(CONV, padding_mode="circular"),
    "transposed output padding": one_rank_differs(TRANSPOSED, output_padding=1),
    "norm eps": one_rank_differs(NORM, eps=1e-3),
    "norm affine": one_rank_differs(NORM, affine=False),
    "resize mode": one_rank_differs(RESIZE, mode="bicubic"),
    "resize corners": one_rank_differs(RESIZE, align_corners=True),
    "resize size": one_rank_differs(RESIZE, size=(32, 6)),
    "width": one_rank_differs(CONV, lambda x: x[..., :5]),
    "dtype": one_rank_differs(CONV, lambda x: x.double()),
    "channels": one_rank_differs(CONV, lambda x: x[:, :3]),
    "batch": one_rank_differs(CONV, lambda x: torch.cat([x, x])),
}


@pytest.mark.parametrize("name", NAMED_BY_CHECK_MODE)
def test_check_mode_names_the_culprit_at_once(name, monkeypatch):
    monkeypatch.setenv("GRATICULE_CHECK", "1")
    begun = time.monotonic()
    refused(NAMED_BY_CHECK_MODE[name], RuntimeError, "DomainParallel", "the ranks differ", "; rank 1 has", ranks=3)
    assert time.monotonic() - begun < 2


def test_check_mode_lets_equal_calls_pass(monkeypatch):
    monkeypatch.setenv("GRATICULE_CHECK", "1")
    results = run_ranks(3, one_rank_differs(CONV))
    assert all(y.shape == (1, 4, 8, 6) for y in results)


def test_check_mode_meets_shards_that_change(monkeypatch):
    """With fresh sizes at every call, a shard that grows on one rank only is no error but a new cut."""
    monkeypatch.setenv("GRATICULE_CHECK", "1")

    def body(domain):
        torch.manual_seed(0)
        layer = layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3, padding=1), domain=domain)
        layer(torch.randn(1, 4, 4, 6))
        return layer(torch.randn(1, 4, 4 + domain.rank, 6)).shape[2]

    assert run_ranks(3, body) == [4, 5, 6]


def fails_within(body, seconds, ranks=3, expected=None):
    begun = time.monotonic()
    errors = failures(ranks, body)
    assert sorted(errors) == (list(range(ranks)) if expected is None else expected), errors
    assert time.monotonic() - begun < seconds
    return errors


def test_given_rows_that_one_rank_has_not():
    def body(domain):
        layer = layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3, padding=1), domain=domain, rows=24)
        return layer(torch.randn(1, 4, 8 + (domain.rank == 1), 6))

    errors = fails_within(body, 2)
    assert "expected 8 rows" in str(errors[1]) and "got 9" in str(errors[1])
    assert "rank 1 failed" in str(errors[0])


@pytest.mark.parametrize("kind", ["conv", "norm", "resize"])
def test_a_shard_that_changes_on_one_rank_only(kind):
    def body(domain):
        layer = {"conv": CONV, "norm": NORM, "resize": RESIZE}[kind]
        layer = layer["layer"](layer["options"], domain)
        layer(torch.randn(1, 4, 8, 6))
        layer(torch.randn(1, 4, 8 + (domain.rank == 1), 6))
        # A rank that has nothing to exchange with rank 1 learns of it in the next call.
        layer(torch.randn(1, 4, 8 + (domain.rank == 1), 6))

    fails_within(body, 12)


def test_a_rank_that_raises():
    def body(domain):
        layer = layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3, padding=1), domain=domain)
        y = layer(torch.randn(1, 4, 8, 6))
        if domain.rank == 1:
            raise KeyError("the program's own")
        return layer(y)

    errors = fails_within(body, 8)
    assert isinstance(errors[1], KeyError)
    assert "rank 1" in str(errors[0]) and "DomainParallelConv2d" in str(errors[0])


def test_a_rank_that_does_not_call():
    def body(domain):
        layer = layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3, padding=1), domain=domain, rows=24)
        if domain.rank != 1:
            layer(torch.randn(1, 4, 8, 6))

    errors = fails_within(body, 8, expected=[0, 2])
    assert "rank 1" in str(errors[0]) and "3000 ms" in str(errors[0])


def test_a_rank_that_goes_forward_while_others_go_backward():
    def body(domain):
        layer = layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3, padding=1), domain=domain, rows=24)
        y = layer(torch.randn(1, 4, 8, 6, requires_grad=True))
        if domain.rank == 1:
            layer(torch.randn(1, 4, 8, 6))
        else:
            y.sum().backward()

    fails_within(body, 8)


def test_ranks_that_call_layers_in_another_order():
    def body(domain):
        first = layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3, padding=1), domain=domain, rows=24)
        second = layers.DomainParallelGroupNorm(nn.GroupNorm(2, 4), domain=domain, rows=24)
        x = torch.randn(1, 4, 8, 6)
        return second(first(x)) if domain.rank != 1 else first(second(x))

    fails_within(body, 12)


def test_a_domain_that_failed_stays_failed():
    def body(domain):
        layer = layers.DomainParallelConv2d(nn.Conv2d(4, 4, 3, padding=1), domain=domain, rows=24)
        with pytest.raises(RuntimeError):
            layer(torch.randn(1, 4, 8 + (domain.rank == 1), 6))
        layer(torch.randn(1, 4, 8, 6))

    errors = fails_within(body, 8)
    assert all("failed before" in str(error) for error in errors.values())


def test_no_layer_without_all_its_values():
    """One value a channel over the whole grid is refused on every rank, as torch refuses it."""
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.GroupNorm(4, 4).train()(torch.zeros(1, 4, 1, 1))
    refused(
        lambda d: layers.DomainParallelGroupNorm(nn.GroupNorm(4, 4), domain=d)(torch.zeros(1, 4, d.rank, 1)),
        ValueError,
        "DomainParallelGroupNorm",
        "more than one value",
    )
