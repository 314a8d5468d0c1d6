"""torch.compile and torch.export: over processes, and what the guarantees of graticule.compiling rest on."""

import io

import pytest
import torch
from torch import nn
from torch._inductor.lowering import lowerings
from torch._library.effects import EffectType
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from graticule import Domain, compiling, gather_rows
from graticule.domain_parallel import DomainParallelConv2d, gather_tensor, sync_domain_gradients
from processes.launch import WORKERS, has_mpi, mpiexec, torchrun

needs_mpi = pytest.mark.skipif(not has_mpi(), reason="the library was built without MPI")


# Those in which the ranks' shapes matter; compilation takes its time.
SOME = ["layers", "primitive", "unused", "model"]


@pytest.mark.undisturbed
@pytest.mark.parametrize("processes,checks", [(2, []), (3, SOME)], ids=["2", "3"])
def test_compiled_layers_over_gloo(processes, checks):
    """Numbers, exchanges and errors: see the checks of the worker."""
    assert "compiled" in torchrun(processes, WORKERS / "compiled.py", "gloo", *checks, GRATICULE_TIMEOUT="30")


@pytest.mark.undisturbed
@needs_mpi
def test_compiled_layers_over_mpi():
    assert "compiled" in mpiexec(2, WORKERS / "compiled.py", "mpi", *SOME[1:], GRATICULE_TIMEOUT="30")


@pytest.mark.undisturbed
def test_an_output_that_a_rank_gives_no_gradient_is_an_error_on_all_over_gloo():
    assert "compiled" in torchrun(3, WORKERS / "compiled.py", "gloo", "dropped", GRATICULE_TIMEOUT="60")


@pytest.mark.undisturbed
@needs_mpi
def test_an_output_that_a_rank_gives_no_gradient_is_an_error_on_all_over_mpi():
    assert "compiled" in mpiexec(2, WORKERS / "compiled.py", "mpi", "dropped", GRATICULE_TIMEOUT="60")


# Ops that stand in no graph, or hold no message; and those that are made of other ops.
SILENT = {
    "all_reduce_sum_",  # changes its argument
    "balanced_offsets",
    "built_for_torch",
    "bytes_sent",
    "conv",
    "conv_transpose",
    "create_thread_group",
    "destroy_thread_group",
    "domain_bytes_sent",
    "domain_messages_sent",
    "domain_rank",
    "domain_size",
    "fixed_shape",
    "force_convolution_path",
    "group_norm",
    "interpolate",
    "messages_sent",
    "periodic_conv",
    "random_values_",
    "row_offsets",  # gives numbers, for which code cannot be compiled
}


def test_every_op_that_communicates_is_known():
    names = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("graticule::")}
    assert {"convolution", "convolution_with_halo", "gather_rows", "group_norm_backward"} < names
    assert set(compiling.COMMUNICATING) == names - SILENT


@pytest.fixture
def alone():
    """A domain of one rank, whose ops run as those of many do."""
    torch._dynamo.reset()
    domain = Domain.threads("compile", 0, 1)
    # A cache knows nothing of a registration that a test takes back.
    with torch._inductor.config.patch(force_disable_caches=True):
        yield domain
    torch.ops.graticule.destroy_thread_group(domain.group_name)
    torch._dynamo.reset()


def own_rows(x, domain):
    return gather_rows(x, domain, [0, x.shape[2]], [0], [x.shape[2]])


def rows_exchanged(body, *args):
    """The rows of every tensor that gather_rows takes in a call of compiled code, in order."""
    body(*args)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as trace, torch.no_grad():
        body(*args)
    events = sorted(trace.events(), key=lambda event: event.time_range.start)
    return [
        event.input_shapes[0][2]
        for event in events
        if event.name == "graticule::gather_rows" and getattr(event.cpu_parent, "name", "") != event.name
    ]


def with_an_unused_result(domain):
    def body(x, y):
        own_rows(y, domain)
        return own_rows(x, domain).sin()

    return body, (torch.randn(1, 1, 3, 4), torch.randn(1, 1, 5, 4))


def saves_memory_in_another_order(domain):
    """The first exchange takes and gives much, and is used late: Inductor would do it last."""

    def body(small, large):
        first = own_rows(small.expand(1, 1, 4096, 64).sin(), domain)
        second = own_rows(large, domain)
        return first.cos(), second.sum()

    return body, (torch.randn(1, 1, 1, 64), torch.randn(1, 1, 2048, 64))


def test_an_exchange_whose_result_is_unused_stays(alone):
    body, args = with_an_unused_result(alone)
    with torch.no_grad():
        assert rows_exchanged(torch.compile(body, fullgraph=True), *args) == [5, 3]


def test_without_the_effect_it_would_be_removed(alone, monkeypatch):
    body, args = with_an_unused_result(alone)
    op = torch.ops.graticule.gather_rows.default
    # Torch adds to this set whenever it traces an op with an effect.
    monkeypatch.setattr(torch.fx.node, "_side_effectful_functions", torch.fx.node._side_effectful_functions - {op})
    torch.library._register_effectful_op(op, None)
    try:
        with torch.no_grad():
            assert rows_exchanged(torch.compile(body, fullgraph=True), *args) == [3]
    finally:
        torch.library._register_effectful_op(op, EffectType.ORDERED)


def test_exchanges_keep_their_order(alone):
    body, args = saves_memory_in_another_order(alone)
    with torch.no_grad():
        assert rows_exchanged(torch.compile(body, fullgraph=True), *args) == [4096, 2048]


def test_without_the_lowering_they_would_not(alone, monkeypatch):
    body, args = saves_memory_in_another_order(alone)
    for name in compiling.COMMUNICATING:
        monkeypatch.delitem(lowerings, getattr(torch.ops.graticule, name).default, raising=False)
    monkeypatch.setattr(compiling, "fixed_shape", lambda x: x)
    monkeypatch.setattr("graticule.exchange.fixed_shape", lambda x: x)
    with torch.no_grad():
        assert rows_exchanged(torch.compile(body, fullgraph=True), *args) == [2048, 4096]


def test_a_checkpoint_that_would_exchange_again_is_an_error(alone):
    def body(x):
        return checkpoint(lambda x: own_rows(x.sin(), alone).sin(), x, use_reentrant=False).sin()

    with pytest.raises(Exception, match="num_erased"):
        torch.compile(body, fullgraph=True)(torch.randn(1, 1, 3, 4, requires_grad=True))


class Halo(nn.Module):
    def __init__(self, domain, rows):
        super().__init__()
        self.domain, self.rows = domain, rows

    def forward(self, x):
        own_rows(x.cos(), self.domain)
        return gather_rows(x, self.domain, [0, self.rows], [-1], [self.rows + 2], "reflect").sin()


def test_exported_code_exchanges_the_same(alone):
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64)
    module = Halo(alone, 5)
    program = torch.export.export(module, (x,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    assert torch.equal(loaded(x), module(x))
    assert rows_exchanged(loaded, x) == rows_exchanged(module, x) == [5, 5]


def test_code_of_one_rank_is_refused_on_another(alone):
    x = torch.randn(1, 1, 5, 4)
    arguments = [0, 5], [0], [5], "none", 2, -1, False, False
    here = f"{alone.group_name}, rank 0 of 1"
    assert torch.equal(torch.ops.graticule.gather_rows(x, *arguments, here), x)
    for place in ("rank 1 of 2", "rank 1 of 1", "rank 0 of 2"):
        with pytest.raises(RuntimeError, match=f"traced on .*{place}.* runs on .*rank 0 of 1"):
            torch.ops.graticule.gather_rows(x, *arguments, f"{alone.group_name}, {place}")


@pytest.mark.parametrize("name", ["gather_tensor", "sync_domain_gradients"])
def test_what_cannot_be_traced_says_so(name, alone, monkeypatch):
    monkeypatch.setattr("graticule.domain_parallel.sharding.active_domain", lambda given: alone)
    monkeypatch.setattr("graticule.domain_parallel.gradients.active_domain", lambda given: alone)
    layer, x = nn.Conv2d(1, 1, 1), torch.randn(1, 1, 5, 4)
    body = (lambda: gather_tensor(x)) if name == "gather_tensor" else lambda: sync_domain_gradients(layer)
    with pytest.raises(Exception, match=f"{name}: cannot be traced"):
        torch.compile(body, fullgraph=True, backend="eager")()
    # Where graph breaks are allowed it runs between two graphs.
    torch.compile(body, backend="eager")()


def test_backward_hooks_of_a_wrapped_module_are_refused(monkeypatch, alone):
    """They would see nothing of the cut layer's own backward."""
    monkeypatch.setattr("graticule.domain_parallel.borrowed.active_domain", lambda given: alone)
    conv = nn.Conv2d(1, 1, 3, padding=1)
    layer = DomainParallelConv2d(conv, domain=alone, rows=5)
    conv.register_full_backward_hook(lambda *given: None)
    with pytest.raises(Exception, match="backward hooks of it are not supported"):
        torch.compile(layer, fullgraph=True, backend="eager")(torch.randn(1, 1, 5, 4))


@pytest.mark.parametrize("last", ["input", "weight"])
def test_gradients_lie_as_compiled_code_expects(alone, monkeypatch, last):
    """Where channels come last in the input or in the weight alone."""
    monkeypatch.setattr("graticule.domain_parallel.borrowed.active_domain", lambda given: alone)
    layer = DomainParallelConv2d(nn.Conv2d(4, 4, 3, padding=1), domain=alone, rows=8)
    x = torch.randn(2, 4, 8, 6)
    if last == "input":
        x = x.contiguous(memory_format=torch.channels_last)
    else:
        layer.to(memory_format=torch.channels_last)
    given = [x.clone().requires_grad_() for _ in range(2)]
    for layer_or_code, t in zip((layer, torch.compile(layer, fullgraph=True)), given, strict=True):
        layer.zero_grad()
        layer_or_code(t).square().sum().backward()
        t.of_weight = layer.weight.grad
    torch.testing.assert_close(given[0].grad, given[1].grad)
    torch.testing.assert_close(given[0].of_weight, given[1].of_weight)
