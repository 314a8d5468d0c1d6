"""One forward and backward pass of a model, and all that it gives."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Any], Tensor]


@dataclasses.dataclass
class Pass:
    """What a pass gave, by kind and name: the order in which differences are looked for."""

    outputs: dict[str, Tensor]
    loss: Tensor
    input_gradients: dict[str, Tensor]
    parameter_gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """(kind, name, tensor) of everything."""
        yield from (("output", name, t) for name, t in self.outputs.items())
        yield "loss", "", self.loss
        yield from (("input gradient", name, t) for name, t in self.input_gradients.items())
        yield from (("parameter gradient", name, t) for name, t in self.parameter_gradients.items())
        yield from (("buffer", name, t) for name, t in self.buffers.items())


def named_tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors in a model's input or output, by their place in it; a lone tensor has no name."""
    if isinstance(value, Tensor):
        return {name: value}
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    elif dataclasses.is_dataclass(value):
        parts = vars(value).items()
    found: dict[str, Tensor] = {}
    for key, part in parts:
        found |= named_tensors(part, f"{name}.{key}" if name else str(key))
    return found


def is_cut(shape: Sequence[int], first: Sequence[int], dim: int) -> bool:
    """Whether an input of sizes `shape` is cut beside a first one: where it has as many dimensions and rows."""
    return len(shape) == len(first) and shape[dim] == first[dim]


def weighted_sum(output: Any) -> Tensor:
    """A loss that every element of the output weighs in differently, the same for a whole and for a cut output."""
    total: Any = torch.zeros(())
    for t in named_tensors(output).values():
        if t.requires_grad:
            t = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
            weight = torch.linspace(0.5, 1.5, max(t.numel(), 1), dtype=torch.float64)[: t.numel()]
            total = total + (t * weight.cos().to(t.dtype).to(t.device).view(t.shape)).sum() / max(t.numel(), 1)
    return total


def run_pass(model: nn.Module, arguments: Any, loss: Loss) -> Pass:
    """One pass over `arguments`, a tuple or a dictionary, of which floating tensors get gradients."""
    taken = named_tensors(arguments)
    for t in taken.values():
        t.requires_grad_(t.is_floating_point())
    output = model(**arguments) if isinstance(arguments, dict) else model(*arguments)
    value = loss(output)
    if value.requires_grad:
        value.backward()
    return Pass(
        {name: t.detach().clone() for name, t in named_tensors(output).items()},
        value.detach(),
        {name: t.grad for name, t in taken.items() if t.grad is not None},
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        {name: b.detach().clone() for name, b in model.named_buffers()},
    )


@contextlib.contextmanager
def state_kept(model: nn.Module, seed: int) -> Iterator[None]:
    """Restores the model's values and gradients and the random generators; within, it starts with none, and `seed`."""
    tensors = [*model.parameters(), *model.buffers()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = [t.detach().clone() for t in tensors]
    gradients = [p.grad for p in model.parameters()]
    devices = sorted({t.device for t in tensors if t.is_cuda}, key=str)
    with torch.random.fork_rng(devices):
        try:
            torch.manual_seed(seed)
            for p in model.parameters():
                p.grad = None
            yield
        finally:
            for module, given in buffers:
                module._buffers.update(given)
            with torch.no_grad():
                for t, value in zip(tensors, values, strict=True):
                    if not torch.equal(t, value):
                        t.copy_(value)
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient
