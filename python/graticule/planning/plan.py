"""plan(): rows, traffic and memory of a cut model's ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graticule.domain import Domain
from graticule.planning.fake_rank import fake_rank, saved_bytes
from graticule.tensor import report as reports
from graticule.tensor.cut import balanced_offsets
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.face import from_local
from graticule.verification.passes import is_cut, named_tensors


@dataclasses.dataclass
class Plan:
    """What each of `ranks` ranks would need for one forward and backward pass.

    `levels`: rows of the whole grid, as the model goes through them, to rows of each rank; `modules`: to the modules
    without children whose results have so many. `bytes`: sent by the rank that sends most. `parameters`, `activations`:
    bytes of memory, the latter what autograd keeps, of the rank that keeps most; `serial_activations` on one device.
    `gathers`: module and op of what would be gathered whole.
    """

    ranks: int
    levels: dict[int, list[int]]
    bytes: int
    parameters: int
    activations: int
    serial_activations: int
    gathers: list[tuple[str, str]]
    modules: dict[int, list[str]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        rows = [f"{self.ranks} ranks"]
        cuts = {level: f"  {level:6} rows: {_runs(each)}" for level, each in self.levels.items()}
        width = max(map(len, cuts.values()), default=0)
        rows += [f"{text:{width}}  {_some(self.modules.get(level, []))}".rstrip() for level, text in cuts.items()]
        rows.append(f"  sent a step:  {_size(self.bytes)}")
        rows.append(f"  parameters:   {_size(self.parameters)}, with their gradients {_size(2 * self.parameters)}")
        share = self.activations / self.serial_activations if self.serial_activations else 1.0
        rows.append(
            f"  activations:  {_size(self.activations)} of {_size(self.serial_activations)} on one device ({share:.1%})"
        )
        rows.append("  gathers:      " + ("none" if not self.gathers else ""))
        rows += [f"    {module or 'outside of the model'}: {op}" for module, op in self.gathers]
        return "\n".join(rows)


def plan(
    build: Callable[[], nn.Module],
    shape: Sequence[int] | Sequence[Sequence[int]],
    ranks: int,
    dim: int = -2,
    dtype: torch.dtype = torch.float32,
    training: bool = True,
) -> Plan:
    """Follows one forward and backward pass on meta tensors: no numbers are computed, nothing is sent.

    The state of torch's default generator is as before afterwards.

    Args:
        build: makes the model; only its parameters take memory, for a moment.
        shape: the whole input's; or the shapes of several inputs, of which those with as many dimensions and rows as
            the first are cut.
        ranks: how many there would be. Followed are the first, a middle and the last one.
        dim: the cut dimension.
        dtype: of the model and its input.
        training: whether the model is in training mode.

    Raises:
        RuntimeError: what the model raises where it cannot do with meta tensors, which have no values.

    """
    with torch.random.fork_rng([]):
        return _followed(build().to(dtype).train(training).to("meta"), _several(shape), ranks, dim, dtype)


def _followed(model: nn.Module, shapes: list[Sequence[int]], ranks: int, dim: int, dtype: torch.dtype) -> Plan:
    def empty(sizes: Sequence[int]) -> Tensor:
        return torch.empty(tuple(sizes), dtype=dtype, device="meta")

    with saved_bytes(model) as serial:
        _step(model, [empty(sizes) for sizes in shapes])
    result = Plan(ranks, {}, 0, _bytes(model), 0, sum(serial), [])
    rows = shapes[0][dim]
    offsets = balanced_offsets(rows, ranks)
    for rank in sorted({0, ranks // 2, ranks - 1}):
        with fake_rank(rank, ranks) as messages, reports.report(model=model) as report:

            def part(sizes: Sequence[int], rank: int = rank, domain: Domain = messages.domain) -> Tensor:
                own = list(sizes)
                own[dim] = offsets[rank + 1] - offsets[rank]
                return from_local(empty(own), domain, dim, rows=rows)

            inputs = [part(sizes) if is_cut(sizes, shapes[0], dim) else empty(sizes) for sizes in shapes]
            with saved_bytes(model) as saved:
                _step(model, inputs, result)
        result.bytes = max(result.bytes, messages.bytes)
        result.activations = max(result.activations, sum(saved))
        if not result.gathers:
            result.gathers = list(dict.fromkeys((call.module, call.op) for call in report.gathers))
    return result


def _several(shape: Any) -> list[Sequence[int]]:
    return [shape] if all(isinstance(size, int) for size in shape) else list(shape)


def _step(model: nn.Module, inputs: list[Tensor], found: Plan | None = None) -> None:
    names = {module: name for name, module in model.named_modules() if next(module.children(), None) is None}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        for name, t in named_tensors((args, output)).items():
            if not isinstance(t, DomainTensor) or found is None:
                continue
            offsets = t._cut.offsets
            rows = [end - begin for begin, end in zip(offsets[:-1], offsets[1:], strict=True)]
            found.levels.setdefault(t._cut.rows, rows)
            made = found.modules.setdefault(t._cut.rows, [])
            # Of the arguments and the output, the latter.
            if name.startswith("1") and module in names and names[module] not in made:
                made.append(names[module])

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        outputs = [t for t in named_tensors(model(*(x.requires_grad_() for x in inputs))).values() if t.requires_grad]
        if outputs:
            torch.stack([torch.real(t.sum()) for t in outputs]).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
        for p in model.parameters():
            p.grad = None


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def _runs(counts: list[int]) -> str:
    """3 3 3 2 as "3 x 3, 2"."""
    runs: list[list[int]] = []
    for count in counts:
        if runs and runs[-1][1] == count:
            runs[-1][0] += 1
        else:
            runs.append([1, count])
    return ", ".join(f"{times} x {count}" if times > 1 else str(count) for times, count in runs)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.4g} {unit}"
        count /= 1000
    raise AssertionError
