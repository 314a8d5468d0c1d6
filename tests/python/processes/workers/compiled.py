"""Compiled layers over processes: their numbers, and the exchanges that they do, in order, on every rank."""

import copy
import functools
import io
import os
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from graticule import Domain, PeriodicConv2d, fold_rows, gather_rows
from graticule.compiling import COMMUNICATING, save_exchanges
from graticule.domain_parallel import (
    DomainParallelConv1d,
    DomainParallelConv2d,
    DomainParallelConv3d,
    DomainParallelConvTranspose1d,
    DomainParallelConvTranspose2d,
    DomainParallelConvTranspose3d,
    DomainParallelGroupNorm,
    DomainParallelInterpolate,
    DomainParallelPeriodicConv2d,
    HaloExchange,
    convert_to_domain_parallel,
    gather_tensor,
    sync_domain_gradients,
)
from support.device import DEVICE
from support.ranks import balanced, own_rows, relative
from support.transport import arguments, collect, domains, end

ROWS = 13  # 6 and 7 rows on 2 ranks; 4, 4 and 5 on 3
OPS = {f"graticule::{name}" for name in COMMUNICATING}


def exchanges(body: Callable[[], object]) -> list[tuple]:
    """The communicating ops that body runs, in order: names, and of each tensor what does not depend on the rank.

    Body is run once before: compilation calls the ops too, on tensors that hold nothing.
    A convolution has one name, whether autograd has it keep rows or not.
    """
    body()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as trace:
        body()
    found = []
    for event in sorted(trace.events(), key=lambda event: event.time_range.start):
        above = event.cpu_parent
        while above is not None and above.name not in OPS:
            above = above.cpu_parent
        if event.name in OPS and above is None:
            name = event.name.removesuffix("_with_halo")
            found.append((name, [shape[:2] for shape in event.input_shapes if len(shape) > 1]))
    return found


def compiled(body: Callable, **options: object) -> Callable:
    torch._dynamo.reset()
    return torch.compile(body, fullgraph=True, **options)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


class Layers(nn.Module):
    """Every layer, each of another number of channels, so that exchanges can be told apart."""

    def __init__(self) -> None:
        super().__init__()
        modes = ["zeros", "reflect", "replicate", "circular"]
        self.plane = nn.ModuleList(
            [
                *[nn.Conv2d(4, 5 + i, 3, padding=1, padding_mode=mode) for i, mode in enumerate(modes)],
                nn.Conv2d(4, 10, 4, stride=2, padding="valid", dilation=1),
                nn.Conv2d(4, 12, 3, padding="same", dilation=2, groups=2, bias=False),
                nn.ConvTranspose2d(4, 14, 4, 2, 1, output_padding=1),
                nn.GroupNorm(2, 4),
                PeriodicConv2d(4, 16, 3),
                nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 18, 3, padding=1)),
                nn.utils.spectral_norm(nn.Conv2d(4, 20, 3, padding=1)),
            ]
        )
        self.line = nn.ModuleList([nn.Conv1d(3, 5, 3, padding=1), nn.ConvTranspose1d(3, 7, 3, 2)])
        self.space = nn.ModuleList([nn.Conv3d(2, 5, 3, padding=1), nn.ConvTranspose3d(2, 7, 3, 2)])
        self.sizes = nn.ModuleList(
            [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Upsample((20, 9), mode="bilinear"),
                nn.Upsample((20, 9), mode="bicubic", align_corners=True),
            ]
        )
        self.double()

    def forward(self, line: Tensor, plane: Tensor, space: Tensor) -> list[Tensor]:
        results = [layer(plane) for layer in self.plane]
        results += [layer(line) for layer in self.line]
        results += [layer(space) for layer in self.space]
        return results + [layer(plane) for layer in self.sizes]


def cut_layers(serial: Layers, domain: Domain) -> Layers:
    made = copy.deepcopy(serial)
    kinds = {
        nn.Conv1d: DomainParallelConv1d,
        nn.Conv2d: DomainParallelConv2d,
        nn.Conv3d: DomainParallelConv3d,
        nn.ConvTranspose1d: DomainParallelConvTranspose1d,
        nn.ConvTranspose2d: DomainParallelConvTranspose2d,
        nn.ConvTranspose3d: DomainParallelConvTranspose3d,
        nn.GroupNorm: DomainParallelGroupNorm,
        PeriodicConv2d: DomainParallelPeriodicConv2d,
    }
    for layers in (made.plane, made.line, made.space):
        for i, layer in enumerate(layers):
            kind = next(kind for kind in kinds if isinstance(layer, kind))
            layers[i] = kinds[kind](layer, domain=domain, rows=ROWS)
    for i, layer in enumerate(made.sizes):
        made.sizes[i] = DomainParallelInterpolate(
            layer.size,
            layer.mode,
            scale_factor=layer.scale_factor,
            align_corners=layer.align_corners,
            domain=domain,
            rows=ROWS,
        )
    return made


def step(body: Callable, inputs: list[Tensor], results: list) -> Callable[[], None]:
    """What runs body forward and backward, and leaves its outputs and input gradients in `results`."""

    def run() -> None:
        if isinstance(body, nn.Module):
            body.zero_grad()
        given = [leaf(x) for x in inputs]
        outputs = body(*given)
        sum(y.square().sum() for y in outputs).backward()
        results[:] = [y.detach() for y in outputs], [x.grad for x in given]

    return run


def same_everywhere(sequence: list[tuple], reports: Domain) -> list[tuple]:
    everywhere = collect(reports, sequence)
    assert all(other == sequence for other in everywhere), everywhere
    assert sequence
    return sequence


def check_layers(domain: Domain, reports: Domain) -> None:
    """Forward and backward of all layers in one graph: as eager, as uncut, and with the exchanges of eager."""
    torch.manual_seed(0)
    serial = Layers()
    cut = cut_layers(serial, domain)
    whole = [torch.randn(2, 3, ROWS), torch.randn(2, 4, ROWS, 9), torch.randn(2, 2, 4, ROWS, 5)]
    whole = [x.double() for x in whole]
    dims = [2, 2, 3]
    shards = [own_rows(x, dim, domain) for x, dim in zip(whole, dims, strict=True)]
    expected: list = []
    run = step(serial, whole, expected)
    run(), run()

    runs = {}
    for backend in ("none", "eager", "aot_eager", "inductor"):
        twin = copy.deepcopy(cut)
        body = twin if backend == "none" else compiled(twin, backend=backend)
        got: list = []
        run = step(body, shards, got)
        sequence = same_everywhere(exchanges(run), reports)
        sync_domain_gradients(twin, domain)
        runs[backend] = sequence, got, [p.grad for p in twin.parameters()]
        assert sequence == runs["none"][0], f"{backend}: {sequence}, eager: {runs['none'][0]}"
    for backend, (_, (outputs, grads), parameter_grads) in runs.items():
        for y, z in zip(outputs, runs["none"][1][0], strict=True):
            assert y.stride() == z.stride(), (backend, y.stride(), z.stride())
            assert relative(y, z) < 1e-14, backend
        for i, (y, z) in enumerate(zip(outputs, expected[0], strict=True)):
            dim = y.dim() - 1 if y.dim() == 3 else y.dim() - 2
            assert relative(gather_tensor(y, dim, domain), z) < 1e-10, (backend, i)
        for g, h, dim in zip(grads, expected[1], dims, strict=True):
            assert relative(gather_tensor(g, dim, domain), h) < 1e-10, backend
        for g, p in zip(parameter_grads, serial.parameters(), strict=True):
            assert relative(g, p.grad) < 1e-10, backend


def check_exchange_primitive(domain: Domain, reports: Domain) -> None:
    """gather_rows, fold_rows and HaloExchange on a cut of their own, with an empty shard where there are three."""
    offsets = [0, 9, 13] if domain.size == 2 else [0, 0, 4, 13]
    begins, ends = [a - 2 for a in offsets[:-1]], [b + 1 for b in offsets[1:]]
    halo = HaloExchange(3, domain=domain, rows=offsets)

    def body(x: Tensor) -> tuple[Tensor, Tensor]:
        rows = gather_rows(x, domain, offsets, begins, ends, "reflect").sin()
        return halo(x), fold_rows(rows, domain, offsets, begins, ends, "reflect")

    x = own_rows(torch.randn(1, 2, 13, 4, dtype=torch.float64), 2, domain, offsets)
    eager: list = []
    other: list = []
    sequence = same_everywhere(exchanges(step(body, [x], eager)), reports)
    assert same_everywhere(exchanges(step(compiled(body), [x], other)), reports) == sequence
    for a, b in zip([*eager[0], *eager[1]], [*other[0], *other[1]], strict=True):
        assert relative(a, b) < 1e-14


class Branches(nn.Module):
    """Two branches of exchanges that depend on nothing of each other."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        convs = [nn.Conv2d(2, channels, 3, padding=1).double() for channels in (3, 5)]
        self.first, self.second = (DomainParallelConv2d(conv, domain=domain, rows=ROWS) for conv in convs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x.cos())


def check_unused_output(domain: Domain, reports: Domain) -> None:
    """The last rank drops an output, outside of the compiled code and in it."""
    torch.manual_seed(1)
    last = domain.rank == domain.size - 1
    whole = torch.randn(1, 2, ROWS, 6, dtype=torch.float64)
    cut = Branches(domain)
    offsets = balanced(ROWS, domain.size)

    uncut = leaf(whole)
    first, second = cut.first.wrapped(uncut), cut.second.wrapped(uncut.cos())
    (first.square().sum() + second[:, :, : offsets[-2]].square().sum()).backward()
    expected = own_rows(uncut.grad, 2, domain)

    x = leaf(own_rows(whole, 2, domain))
    body = compiled(cut)

    def train() -> None:
        x.grad = None
        first, second = body(x)
        (first.square().sum() if last else first.square().sum() + second.square().sum()).backward()

    names = [name for name, _ in same_everywhere(exchanges(train), reports)]
    assert names == ["graticule::convolution"] * 2 + ["graticule::convolution_backward"] * 2, names
    assert relative(x.grad, expected) < 1e-10

    def within(x: Tensor) -> Tensor:
        first, second = cut(x)
        return first.sum() if last else first.sum() + second.sum()

    with torch.no_grad():
        body = compiled(within)
        assert len(same_everywhere(exchanges(lambda: body(x)), reports)) == 2

    def kept(x: Tensor) -> Tensor:
        first, second = cut(x)
        return first.square().sum() + (0 * second.sum() if last else second.square().sum())

    def train_within() -> None:
        x.grad = None
        body(x).backward()

    body = compiled(kept)
    names = [name for name, _ in same_everywhere(exchanges(train_within), reports)]
    assert names == ["graticule::convolution"] * 2 + ["graticule::convolution_backward"] * 2, names
    assert relative(x.grad, expected) < 1e-10


def check_output_without_gradient(doomed: list[Domain], reports: Domain) -> None:
    """The last rank's loss leaves out an output within the graph, which then has no backward of it there: an error on
    every rank by the end of the step, as without compilation.
    """
    cases = [(backend, used) for backend in ("none", "aot_eager", "inductor") for used in (0, 1)]
    for (backend, used), domain in zip(cases, doomed, strict=True):
        torch.manual_seed(1)
        cut = Branches(domain)
        last = domain.rank == domain.size - 1

        def loss(x: Tensor, cut: nn.Module = cut, last: bool = last, used: int = used) -> Tensor:
            outputs = cut(x)
            return outputs[used].square().sum() if last else sum(y.square().sum() for y in outputs)

        body = loss if backend == "none" else compiled(loss, backend=backend)
        x = leaf(own_rows(torch.randn(1, 2, ROWS, 6, dtype=torch.float64), 2, domain))

        def train(cut: nn.Module = cut, domain: Domain = domain, body: Callable = body, x: Tensor = x) -> None:
            body(x).backward()
            sync_domain_gradients(cut, domain)

        patience = os.environ["GRATICULE_TIMEOUT"]
        os.environ["GRATICULE_TIMEOUT"] = "5"
        begun = time.monotonic()
        try:
            message = raised(train)
        finally:
            os.environ["GRATICULE_TIMEOUT"] = patience
        # Compilation takes its time.
        assert time.monotonic() - begun < 5 + 30, (backend, used, message)
        assert f"rank {domain.rank} of {domain.size}" in message or "waiting for rank" in message, message
        collect(reports, "all have failed")


def check_model(domain: Domain, reports: Domain) -> None:
    """A model whose first call is the compiled one, within which its shapes are traced; a checkpoint in the middle."""
    torch.manual_seed(2)

    context = functools.partial(create_selective_checkpoint_contexts, save_exchanges)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
            self.middle = nn.Sequential(nn.Conv2d(4, 8, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1))
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(checkpoint(self.middle, x, use_reentrant=False, context_fn=context))

    serial = Model().double()
    # One row for each rank but the first, which has none: it lends the last layer one.
    rows = [ROWS + 1, domain.size - 1 if domain.size > 2 else 2]
    for count in rows:
        model = convert_to_domain_parallel(copy.deepcopy(serial), domain, rows=count)
        whole = torch.randn(1, 2, count, 8, dtype=torch.float64)
        uncut = leaf(whole)
        serial.zero_grad()
        y = serial(uncut)
        y.square().sum().backward()

        results: list = []
        run = step(compiled(lambda x, model=model: [model(x)]), [own_rows(whole, 2, domain)], results)
        names = [name for name, _ in same_everywhere(exchanges(run), reports)]
        assert [names.count(f"graticule::{op}") for op in ("convolution", "group_norm_forward")] == [3, 1], names
        model.zero_grad()
        run()
        sync_domain_gradients(model, domain)
        assert relative(gather_tensor(results[0][0], 2, domain), y.detach()) < 1e-10
        assert relative(gather_tensor(results[1][0], 2, domain), uncut.grad) < 1e-10
        for p, q in zip(model.parameters(), serial.parameters(), strict=True):
            assert relative(p.grad, q.grad) < 1e-10


def raised(body: Callable[[], object]) -> str:
    try:
        body()
    except Exception as error:  # noqa: BLE001
        return str(error)
    raise AssertionError("no error")


def check_unknown_rows(domain: Domain, reports: Domain) -> None:
    """Without rows=, the cut that is there when the code is traced; another one is an error on every rank."""
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    for eager_first in (True, False):
        layer = DomainParallelConv2d(conv, domain=domain)
        x = own_rows(torch.randn(1, 2, ROWS, 6, dtype=torch.float64), 2, domain)
        if eager_first:
            layer(x)
        body = compiled(layer, backend="eager")
        assert relative(body(x), DomainParallelConv2d(conv, domain=domain, rows=ROWS)(x)) == 0
        more = own_rows(torch.randn(1, 2, ROWS + 4 * domain.size, 6, dtype=torch.float64), 2, domain)
        message = raised(lambda body=body, more=more: body(more))
        assert "DomainParallelConv2d" in message and "give rows=" in message, message
        assert f"rank {domain.rank} of {domain.size}" in message, message
        assert relative(body(x), layer(x)) == 0


def check_shapes_that_change(domain: Domain) -> None:
    """Dynamic shapes: compiled again for each shape."""
    layer = DomainParallelConv2d(nn.Conv2d(2, 3, 3, padding=1).double(), domain=domain, rows=ROWS)
    for dynamic in (True, None):
        body = compiled(layer, backend="aot_eager", dynamic=dynamic)
        for batch, columns in [(1, 6), (2, 6), (2, 8), (1, 6)]:
            x = own_rows(torch.randn(batch, 2, ROWS, columns, dtype=torch.float64), 2, domain)
            for given in (x, x.contiguous()):
                assert relative(body(given), layer(given)) == 0


def check_export(domain: Domain, reports: Domain) -> None:
    """A converted model as an exported program, saved and loaded."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.GroupNorm(2, 4), PeriodicConv2d(4, 2, 3)
    )
    x = own_rows(torch.randn(1, 2, ROWS, 6, dtype=torch.float64), 2, domain)
    serial = model.double()
    for strict in (False, True):
        model = convert_to_domain_parallel(copy.deepcopy(serial), domain, rows=ROWS)
        file = io.BytesIO()
        torch.export.save(torch.export.export(model, (x,), strict=strict), file)
        file.seek(0)
        loaded = torch.export.load(file).module()
        with torch.no_grad():
            expected = same_everywhere(exchanges(functools.partial(model, x)), reports)
            assert exchanges(functools.partial(loaded, x)) == expected
            assert relative(loaded(x), model(x)) < 1e-14


def check_half_types_and_formats(domain: Domain) -> None:
    """Autocast and channels_last, as eager has them."""
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.Conv2d(16, 8, 3, 2, 1))
    model = convert_to_domain_parallel(model, domain, rows=ROWS).to(memory_format=torch.channels_last)
    x = own_rows(torch.randn(2, 8, ROWS, 10), 2, domain).contiguous(memory_format=torch.channels_last)
    body = compiled(model)
    for autocast in (False, True):
        with torch.autocast(torch.device(DEVICE).type, torch.bfloat16, enabled=autocast):
            expected, got = model(x), body(x)
        assert got.dtype == expected.dtype and got.stride() == expected.stride()
        assert relative(got.detach(), expected.detach()) < (2e-2 if autocast else 1e-5)


def check_check_mode(domain: Domain, reports: Domain) -> None:
    """The comparison of calls is part of the compiled code, and names what differs."""

    def layer(kernel: int) -> Callable:
        conv = nn.Conv2d(2, 3, kernel, padding=kernel // 2).double()
        return compiled(DomainParallelConv2d(conv, domain=domain, rows=ROWS))

    x = own_rows(torch.randn(1, 2, ROWS, 6, dtype=torch.float64), 2, domain)
    os.environ["GRATICULE_CHECK"] = "1"
    try:
        with torch.no_grad():
            body = layer(3)
            sequence = same_everywhere(exchanges(lambda: body(x)), reports)
            assert [name for name, _ in sequence] == ["graticule::check_equal", "graticule::convolution"], sequence
            body = layer(3 if domain.rank == 0 else 5)
            message = raised(lambda: body(x))
            assert "DomainParallelConv2d" in message and "kernel_size=(5, 5)" in message, message
    finally:
        del os.environ["GRATICULE_CHECK"]


def main() -> None:
    transport = arguments()
    domain, reports, *doomed = domains(transport, 9)
    if DEVICE != "cpu":
        torch.set_default_device(DEVICE)
    checks = {
        "layers": lambda: check_layers(domain, reports),
        "primitive": lambda: check_exchange_primitive(domain, reports),
        "unused": lambda: check_unused_output(domain, reports),
        "model": lambda: check_model(domain, reports),
        "rows": lambda: check_unknown_rows(domain, reports),
        "shapes": lambda: check_shapes_that_change(domain),
        "export": lambda: check_export(domain, reports),
        "formats": lambda: check_half_types_and_formats(domain),
        # An error ends a domain.
        "check": lambda: check_check_mode(doomed[0], reports),
        "dropped": lambda: check_output_without_gradient(doomed[1:], reports),
    }
    for name in sys.argv[2:] or checks:
        checks[name]()
    collect(reports, "done")
    if domain.rank == 0:
        print("compiled", flush=True)
    end(transport)


if __name__ == "__main__":
    main()
