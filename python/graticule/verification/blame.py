"""Which module is the first to differ."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from graticule.domain import Domain
from graticule.tensor.random import by_position
from graticule.verification.differences import differences, error_of, whole_value, worst
from graticule.verification.passes import Loss, named_tensors, run_pass, state_kept

_OF_MODULES = ("parameter gradient", "buffer")


@dataclasses.dataclass
class _Call:
    """A module's run: what it gave, and the gradients that came to its results and left by its arguments."""

    module: str
    given: list[Tensor]
    output_gradients: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    input_gradients: dict[int, Tensor] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[list[_Call]]:
    calls: list[_Call] = []
    handles = []

    def keep(into: dict[int, Tensor], tensors: list[Tensor]) -> None:
        for i, t in enumerate(tensors):
            if t.requires_grad:
                t.register_hook(lambda gradient, i=i: into.__setitem__(i, gradient.detach().clone()))

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            results = list(named_tensors(output).values())
            call = _Call(name, [t.detach().clone() for t in results])
            keep(call.output_gradients, results)
            keep(call.input_gradients, list(named_tensors((args, kwargs)).values()))
            calls.append(call)

        return hook

    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(after(name or "(model)"), with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def first_difference(
    model: nn.Module,
    whole: Callable[[], Any],
    cut: Callable[[], Any],
    loss: Loss,
    domain: Domain,
    bound: float,
    seed: int,
) -> str:
    """Where the difference begins: in the forward pass, else in the backward pass. All ranks must call.

    `whole` and `cut` make the arguments.
    """
    with state_kept(model, seed), by_position(), _recorded(model) as wanted:
        uncut = run_pass(model, whole(), loss)
    with state_kept(model, seed), by_position(), _recorded(model) as found:
        own = run_pass(model, cut(), loss)
        names = [call.module for call in wanted]
        if [call.module for call in found] != names:
            return "the two runs call other modules"
        forward = worst([_error(f.given, w.given) for f, w in zip(found, wanted, strict=True)], domain)
        for name, error in zip(names, forward, strict=True):
            if not error <= bound:
                return f"output of {name} ({_kind(model, name)})"
        came = worst([_gradients(f.output_gradients, w.output_gradients) for f, w in _pairs(found, wanted)], domain)
        left = worst([_gradients(f.input_gradients, w.input_gradients) for f, w in _pairs(found, wanted)], domain)
        others = [d for d in differences(own, uncut, domain) if not d.error <= bound and d.kind in _OF_MODULES]
    suspects = [name for name, c, g in zip(names, came, left, strict=True) if c <= bound and not g <= bound]
    if suspects:
        # The last to be called is the first in the backward pass; of those within one another, the innermost.
        inner = [s for s in suspects if not any(o != s and (s == "(model)" or o.startswith(f"{s}.")) for o in suspects)]
        return f"gradients from {inner[-1]} ({_kind(model, inner[-1])})"
    for difference in others:
        owner = difference.name.rpartition(".")[0] or "(model)"
        return f"{difference.kind} {difference.name} of {owner} ({_kind(model, owner)})"
    return "no module by itself"


def _pairs(found: list[_Call], wanted: list[_Call]) -> Iterator[tuple[_Call, _Call]]:
    return zip(found, wanted, strict=True)


def _kind(model: nn.Module, name: str) -> str:
    return type(model if name == "(model)" else model.get_submodule(name)).__name__


def _error(found: list[Tensor], wanted: list[Tensor]) -> float:
    if len(found) != len(wanted):
        return float("inf")
    return max((error_of(whole_value(f), w) for f, w in zip(found, wanted, strict=True)), default=0.0)


def _gradients(found: dict[int, Tensor], wanted: dict[int, Tensor]) -> float:
    if found.keys() != wanted.keys():
        return float("inf")
    return max((error_of(whole_value(found[i]), wanted[i]) for i in sorted(found)), default=0.0)
