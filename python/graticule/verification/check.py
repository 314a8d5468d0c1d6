"""verify(): a model uncut and cut, side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graticule.domain import Domain
from graticule.tensor import report as reports
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.face import shard
from graticule.tensor.random import by_position
from graticule.verification.blame import first_difference
from graticule.verification.differences import Difference, differences, worst
from graticule.verification.passes import Loss, is_cut, named_tensors, run_pass, state_kept, weighted_sum

_BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}


@dataclasses.dataclass
class Verification:
    """What verify found; the same on every rank.

    `differences` has the error of every output, of the loss, of the inputs' and the parameters' gradients and of the
    buffers afterwards; `first_module` the first module that differs, or nothing; `report` what moved on this rank.
    """

    differences: list[Difference]
    bound: float
    first_module: str
    report: reports.Report

    @property
    def exact(self) -> bool:
        """Whether everything is within the bound."""
        return not self.failed

    @property
    def failed(self) -> list[Difference]:
        """What is beyond the bound."""
        return [d for d in self.differences if not d.error <= self.bound]

    @property
    def error(self) -> float:
        """The largest error."""
        return max((d.error for d in self.differences), default=0.0)

    def __str__(self) -> str:
        lines = [f"{'':24}{'tensors':>8}  {'worst error':>11}  where"]
        for kind in dict.fromkeys(d.kind for d in self.differences):
            of_kind = [d for d in self.differences if d.kind == kind]
            largest = max(of_kind, key=lambda d: d.error)
            verdict = "" if largest.error <= self.bound else "   DIFFERS"
            lines.append(f"{kind:24}{len(of_kind):8}  {largest.error:11.2e}  {largest.name}{verdict}".rstrip())
        moved = f"{len(self.report.calls)} messages, {self.report.bytes} bytes, {len(self.report.gathers)} gathers"
        lines.append(f"moved: {moved}")
        if self.first_module:
            lines.append(f"first difference: {self.first_module}")
        lines.append(f"exact to {self.bound:g}" if self.exact else f"NOT exact to {self.bound:g}")
        return "\n".join(lines)


def verify(
    model: nn.Module,
    x: Any,
    domain: Any,
    loss: Loss | None = None,
    dim: int = -2,
    bound: float | None = None,
    seed: int = 0,
) -> Verification:
    """Runs a model uncut on every rank and cut over the domain, and compares all that comes out. All ranks must call.

    The model's values, buffers and gradients and the state of the random generators are as before afterwards.

    Args:
        model: the same on every rank, in the type to compare in: float64 leaves no doubt.
        x: the whole input, the same on every rank: a tensor, a tuple of arguments or a dictionary of them. Cut are the
            tensors that have as many dimensions as the first, and as many rows; the others are replicated.
        domain: what Domain.of takes.
        loss: a number from the model's output; without it a sum of every element with a weight of its own.
        dim: the dimension to cut.
        bound: the largest error, over the largest element of its tensor, or over a thousandth of the largest one of
            its kind (outputs, gradients of parameters, ...) where that is more, that counts as exact; without it
            1e-10 in float64, 1e-3 in float32, 0.1 in half precision.
        seed: of torch's default generators before either run. Both draw random numbers by position, so that dropout
            and the like hit the same elements.

    Raises:
        ValueError: where parameters, buffers or the input differ between ranks.
        TypeError: where tensors of the input, or all of the output, are in containers that are not looked into.

    """
    within = Domain.of(domain)
    arguments = x if isinstance(x, (tuple, dict)) else (x,)
    seen = [t for t in pytree.tree_leaves(arguments) if isinstance(t, Tensor)]
    if len(seen) != len(named_tensors(arguments)):
        raise TypeError(
            "verify: expected tensors, and tuples, lists and dictionaries of them, got a container of another kind: "
            "its tensors could not be cut"
        )
    _same_everywhere(model, arguments, within)
    value = loss or weighted_sum
    with state_kept(model, seed), by_position():
        uncut = run_pass(model, _copied(arguments), value)
    if loss is None and not uncut.outputs:
        raise TypeError(
            "verify: found no tensor in the model's output: expected tensors, and tuples, lists, dictionaries and "
            "dataclasses of them; or give a loss"
        )
    with state_kept(model, seed), by_position(), reports.report(model=model) as report:
        cut = run_pass(model, cut_arguments(arguments, within, dim), value)
        found = differences(cut, uncut, within)
    types = [t.dtype for t in uncut.outputs.values() if t.dtype in _BOUNDS]
    limit = bound if bound is not None else max((_BOUNDS[t] for t in types), default=1e-10)
    result = Verification(found, limit, "", report)
    if not result.exact:
        result.first_module = first_difference(
            model, lambda: _copied(arguments), lambda: cut_arguments(arguments, within, dim), value, within, limit, seed
        )
    return result


def _copied(arguments: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), arguments)


def cut_arguments(arguments: Any, domain: Domain, dim: int) -> Any:
    """A rank's part of the whole arguments, as verify() says."""
    first = next(iter(named_tensors(arguments).values())).shape

    def part(t: Tensor) -> Tensor:
        return shard(t.detach(), domain, dim) if is_cut(t.shape, first, dim) else t.detach().clone()

    return pytree.tree_map_only(Tensor, part, arguments)


def _same_everywhere(model: nn.Module, arguments: Any, domain: Domain) -> None:
    """ValueError, on every rank, where ranks began with different values."""
    given: dict[str, Tensor] = {f"parameter {name}": t for name, t in model.named_parameters()}
    given |= {f"buffer {name}": t for name, t in model.named_buffers()}
    given |= {f"input {name}": t for name, t in named_tensors(arguments).items()}
    for name, t in given.items():
        if isinstance(t, DomainTensor):
            raise TypeError(f"verify: {name}: expected a whole tensor, got a DomainTensor")
    sums = [_fingerprint(t) for t in given.values()]
    largest, smallest = worst(sums, domain), worst([-s for s in sums], domain)
    for name, high, low in zip(given, largest, smallest, strict=True):
        if high != -low:
            raise ValueError(f"verify: rank {domain.rank} of {domain.size}: {name} differs between ranks")


def _fingerprint(t: Tensor) -> float:
    flat = (
        t.detach().double().reshape(-1).nan_to_num(0.5, 1e30, -1e30)
        if not t.is_complex()
        else t.detach().abs().reshape(-1)
    )
    return float((flat * torch.arange(1, len(flat) + 1, dtype=flat.dtype, device=flat.device).cos()).sum())
